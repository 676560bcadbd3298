"""`check results` names the cell of each failure, seed included."""

from harness.check.results import lines
from harness.store import Store, key_of


def test_a_failed_seed_is_named(tmp_path):
    spec = {"model": "albef-tiny", "method": "random", "ratio": 0.5, "task": "vqa", "seed": 2, "code": "c"}
    record = {"format": 1, "key": key_of(spec), "spec": spec, "status": "failed", "error": "no image", "quality": {}}
    store = Store(tmp_path)
    store.prepare()
    store.save({**record, "cost": None, "diagnostics": {}, "run": {}, "samples": None}, None)
    assert ("failed  albef-tiny random 0.5 vqa seed 2: no image", False) in lines(tmp_path)
