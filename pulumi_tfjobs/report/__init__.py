"""Reports for a pull request: what an update will do with the jobs, or has done; as Markdown, a page, a comment."""
