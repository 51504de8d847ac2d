"""What a table says of layers that a method has emptied."""

from __future__ import annotations

from sparserl_jax.bench import emptied


def test_a_table_names_emptied_layers(tmp_path):
    tensors = [
        {"name": f"hidden_1[{copy}]", "path": "mlp/hidden_1/kernel", "nnz": nnz}
        for copy, nnz in ((0, 0), (1, 4))
    ]
    record = {"run_id": "env/l0-s0900-seed000", "result": {"promise": "none", "tensors": {"critic": tensors}}}
    folder = tmp_path / "records" / "env" / "l0-s0900-seed000"
    folder.mkdir(parents=True)
    (folder / "curve.csv").write_text(
        "env_step,update,return,live_critic_hidden_1\n1000,9,1.0,0.5\n2000,9,1.0,0.0\n", encoding="utf-8"
    )
    assert emptied.sentences(tmp_path, [record]) == [
        "LAYERS WITHOUT A WEIGHT, by too large a coefficient: env/l0-s0900-seed000 (hidden_1[0] of the critic from "
        "step 2,000)."
    ]
    del record["result"]["promise"]
    assert emptied.sentences(tmp_path, [record])[0].startswith("LAYERS WITHOUT A WEIGHT: env/l0")
    record["result"]["tensors"]["critic"][0]["nnz"] = 1
    assert emptied.sentences(tmp_path, [record]) == []


def test_a_table_names_emptied_layers_of_several_seeds_once(tmp_path):
    def record(seed, step, *nnz):
        run = f"env/l0-c3-seed{seed:03d}"
        folder = tmp_path / "records" / run
        folder.mkdir(parents=True)
        columns = "live_actor_hidden_0,live_actor_output"
        shares = ",".join("0.0" if count == 0 else "0.5" for count in nnz)
        rows = f"env_step,update,return,{columns}\n1000,9,1.0,0.5,0.5\n{step},9,1.0,{shares}\n"
        (folder / "curve.csv").write_text(rows, encoding="utf-8")
        tensors = [
            {"name": name, "path": f"mlp/{name}/kernel", "nnz": count}
            for name, count in zip(("hidden_0", "output"), nnz, strict=True)
        ]
        return {"run_id": run, "result": {"promise": "none", "tensors": {"actor": tensors}}}

    found = [record(0, 3000, 0, 4), record(1, 2000, 4, 0), record(2, 5000, 4, 4)]
    (said,) = emptied.sentences(tmp_path, found)
    row = "env/l0-c3, 2 of 3 seeds (hidden_0 of the actor, output of the actor; the first from step 2,000)"
    assert said == f"LAYERS WITHOUT A WEIGHT, by too large a coefficient: {row}."
