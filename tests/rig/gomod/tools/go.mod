module rig/tools

go 1.23
