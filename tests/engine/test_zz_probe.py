from __future__ import annotations
from tests.engine.harness import *
import pytest, time, sys
@pytest.fixture
def project(tmp_path):
    (tmp_path/"ph").mkdir()
    p = Project(tmp_path, tmp_path/"ph"); yield p; p.close()

def test_bad(project):
    j = project.job()
    project.yaml({"one": {**j, "type": COMPONENT, "properties": {**j["properties"], "entryScript": "tran.py", "nodeCount": -1}}})
    b = project.root/"bin"; b.mkdir()
    w = b/"pulumi-resource-tfjobs"
    w.write_text(f"""#!{sys.executable}
import faulthandler, signal, sys, os, time
def log(*a):
    with open('/tmp/scratch/eng/trace','a') as f: print(os.getpid(), time.time(), *a, file=f)
log('start')
import pulumi_tfjobs.provider.servicer as s
import functools
for n in dir(s.Servicer):
    if n[0].isupper():
        def wrap(n, m):
            async def inner(self, r, c):
                log(n, 'begin')
                try:
                    x = await m(self, r, c)
                    log(n, 'end'); return x
                except BaseException as e:
                    log(n, repr(e)[:300]); raise
            return inner
        setattr(s.Servicer, n, wrap(n, getattr(s.Servicer, n)))
import asyncio
old = asyncio.Event.set
def set(self):
    log('event set'); return old(self)
asyncio.Event.set = set
from pulumi_tfjobs.provider.__main__ import main; main()
""")
    w.chmod(0o755)
    y = project.folder/"Pulumi.yaml"
    y.write_text(y.read_text().replace(str(default_paths().venv / "bin")+'"', str(b)+'"'))
    t=time.time()
    r = project.preview(expected=1); print(r.text, time.time()-t); 
