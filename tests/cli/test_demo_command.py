"""`safevlm demo` as a user types it: what is shown, where, and the exit code."""

import safevlm_hf.demo
import safevlm_hf.training.run


def test_demo(call, monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(safevlm_hf.demo, "main", lambda words: called.append(words) or 1)
    code, out, err = call("demo", "--seed", 2, "--output_dir", tmp_path, "--report", "r.html")
    assert (code, out, err) == (1, "", "")
    assert called == [["--seed", "2", "--output_dir", str(tmp_path), "--report", "r.html"]]
