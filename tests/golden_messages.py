"""Every kind of message as a value and as the JSON that crosses the wire. A change here is a change of the protocol."""

from dl_mqtt_clients.wire.feature_sums import CategorySums, FeatureReport, FeatureSums
from dl_mqtt_clients.wire.messages import (
    Anomaly,
    Answer,
    Blob,
    Command,
    Difference,
    EarlyStopping,
    Found,
    Histogram,
    History,
    ManagerStatus,
    Manifest,
    Metrics,
    NodeStatus,
    Offer,
    Participant,
    Readings,
    ReduceOnPlateau,
    Reply,
    Round,
    RoundReport,
    Scores,
    Spread,
    Statistics,
    Training,
    Variable,
    Verdicts,
)

SHA = "0123456789abcdef" * 4
OTHER = "f" * 64

MANIFEST = Manifest(
    stage="production",
    generation=1,
    serial=7,
    version=SHA,
    number=3,
    round=3,
    lineage=OTHER,
    base=OTHER,
    features=("processId", "userId"),
    categorical=(1,),
    blobs={"architecture": Blob(sha256=OTHER, bytes=900, chunk_bytes=262144)},
    variables=(Variable(role="scaler", shape=(2,), dtype="float32", path="scaling/mean"),),
    threshold=0.5,
    metrics=Metrics(
        loss=0.25,
        holdout_loss=0.5,
        auroc=0.9,
        average_precision=0.75,
        verdicts=Verdicts(true_positives=4, false_positives=3, false_negatives=2, true_negatives=1),
        loss_spread=Spread(worst=3.0, median=2.0, best=1.0, worst_node="jetson-07"),
        examples=100,
        nodes=2,
    ),
)
MANIFEST_JSON = f"""{{
  "v": 1, "stage": "production", "generation": 1, "serial": 7, "version": "{SHA}", "number": 3, "round": 3,
  "lineage": "{OTHER}", "base": "{OTHER}", "best": null, "task": "anomaly", "features": ["processId", "userId"],
  "categorical": [1],
  "blobs": {{"architecture": {{"sha256": "{OTHER}", "bytes": 900, "chunk_bytes": 262144}}}},
  "variables": [{{"role": "scaler", "shape": [2], "dtype": "float32", "path": "scaling/mean"}}],
  "threshold": 0.5, "share": 1.0,
  "metrics": {{"loss": 0.25, "holdout_loss": 0.5, "auroc": 0.9,
    "average_precision": 0.75,
    "verdicts": {{"true_positives": 4, "false_positives": 3, "false_negatives": 2, "true_negatives": 1}},
    "loss_spread": {{"worst": 3.0, "median": 2.0, "best": 1.0, "worst_node": "jetson-07"}}, "auroc_spread": null,
    "examples": 100, "nodes": 2}}
}}"""

ROUND = Round(
    generation=1,
    round=4,
    attempt=2,
    phase="open",
    base=SHA,
    number=3,
    fraction=0.5,
    seed="2024",
    deadline_s=60.0,
    target_updates=4,
    min_updates=2,
    inline_bytes=65536,
    require=("gpu=true",),
    quarantine=9.5,
    released=1,
    training=Training(
        epochs=2,
        learning_rate=0.001,
        early_stopping=EarlyStopping(patience=3, delta=0.01),
        reduce_on_plateau=ReduceOnPlateau(patience=2),
    ),
)
ROUND_JSON = f"""{{
  "v": 1, "generation": 1, "round": 4, "attempt": 2, "phase": "open", "mode": "sync", "base": "{SHA}", "number": 3,
  "fraction": 0.5, "seed": "2024", "deadline_s": 60.0, "target_updates": 4, "min_updates": 2, "codec": "float32",
  "inline_bytes": 65536, "chunk_bytes": 262144, "require": ["gpu=true"],
  "quarantine": 9.5, "released": 1,
  "training": {{
    "epochs": 2, "batch_size": 32, "learning_rate": 0.001, "steps": 0, "optimizer": "", "objective": "",
    "window": 10000, "min_readings": 256, "min_new_readings": 0,
    "early_stopping": {{"patience": 3, "delta": 0.01}},
    "reduce_on_plateau": {{"patience": 2, "delta": 0.0, "cooldown": 0, "factor": 0.1, "minimum": 0.0}}
  }}
}}"""

OFFER = Offer(
    round=4,
    attempt=2,
    base=SHA,
    sha256=OTHER,
    bytes=4096,
    examples=512,
    new_readings=40,
    steps=16,
    oldest_age_s=3600.5,
    newest_age_s=0.25,
    metrics={"loss": 0.125},
)
OFFER_JSON = f"""{{
  "v": 1, "round": 4, "attempt": 2, "base": "{SHA}", "sha256": "{OTHER}", "bytes": 4096, "examples": 512,
  "new_readings": 40, "steps": 16, "oldest_age_s": 3600.5, "newest_age_s": 0.25, "inline": false,
  "metrics": {{"loss": 0.125}}
}}"""

REPLY = Reply(kind="grant", round=4, attempt=2, sha256=OTHER, chunks=(0, 1, 2))
REPLY_JSON = f"""{{
  "v": 1, "kind": "grant", "round": 4, "attempt": 2, "sha256": "{OTHER}", "chunks": [0, 1, 2], "reason": ""
}}"""

HISTORY = History(
    generation=1,
    rounds=(
        RoundReport(
            round=4,
            attempt=2,
            outcome="merged",
            drifting=("jetson-07",),
            reason="command",
            version=SHA,
            number=4,
            seconds=1.5,
            asked=3,
            participants=(
                Participant(
                    node="jetson-07",
                    examples=512,
                    weight=1.0,
                    loss=0.125,
                    data_from="2026-07-02T12:05:00+00:00",
                    data_to="2026-07-02T13:04:59+00:00",
                ),
            ),
            refused={"jetson-08": "unknown node"},
            left_out=("jetson-09",),
            metrics=Metrics(loss=0.125, examples=512, nodes=1),
            threshold=0.5,
            base=OTHER,
            lineage=OTHER,
            codec="int8",
            strategy="FedAvg",
            data_from="2026-07-02T12:05:00+00:00",
            data_to="2026-07-02T13:04:59+00:00",
            finished="2026-07-02T13:05:00+00:00",
        ),
    ),
)
HISTORY_JSON = f"""{{
  "v": 1, "generation": 1,
  "rounds": [{{
    "round": 4, "attempt": 2, "outcome": "merged", "drifting": ["jetson-07"], "reason": "command",
    "version": "{SHA}", "number": 4, "seconds": 1.5, "asked": 3,
    "participants": [{{"node": "jetson-07", "examples": 512, "weight": 1.0, "loss": 0.125, "staleness": 0,
      "data_from": "2026-07-02T12:05:00+00:00", "data_to": "2026-07-02T13:04:59+00:00"}}],
    "refused": {{"jetson-08": "unknown node"}}, "left_out": ["jetson-09"], "unnamed": 0,
    "metrics": {{"loss": 0.125, "holdout_loss": null, "auroc": null, "average_precision": null,
      "verdicts": null, "loss_spread": null, "auroc_spread": null, "examples": 512, "nodes": 1}}, "threshold": 0.5,
    "promotion": "", "base": "{OTHER}", "lineage": "{OTHER}", "codec": "int8", "strategy": "FedAvg",
    "data_from": "2026-07-02T12:05:00+00:00", "data_to": "2026-07-02T13:04:59+00:00",
    "finished": "2026-07-02T13:05:00+00:00"
  }}],
  "omitted": 0
}}"""

MANAGER_STATUS = ManagerStatus(
    state="collecting",
    instance="c0ffee",
    generation=1,
    round=4,
    attempt=2,
    version=3,
    production=2,
    nodes=5,
    accepted=9,
    refused={"unknown node": 1},
    rejected=2,
    on_hold=True,
    detail="waiting",
    last_error="none worth telling",
)
MANAGER_STATUS_JSON = """{
  "v": 1, "state": "collecting", "instance": "c0ffee", "generation": 1, "round": 4, "attempt": 2, "version": 3,
  "production": 2, "nodes": 5, "accepted": 9, "refused": {"unknown node": 1}, "rejected": 2,
  "on_hold": true, "detail": "waiting", "last_error": "none worth telling"
}"""

NODE_STATUS = NodeStatus(
    state="fitting",
    instance="beef",
    version=SHA,
    number=3,
    backend="jax",
    readings=Readings(received=1000, malformed=2, dropped=3, rate=12.5, last_error="data: expected 2 values"),
    attributes=("gpu=true",),
    detail="epoch 1 of 2",
    round=4,
    window=900,
    new_readings=40,
    progress=0.5,
    loss=0.25,
    drift=0.125,
    quarantined=7,
    accepted=3,
    refused=1,
)
NODE_STATUS_JSON = f"""{{
  "v": 1, "state": "fitting", "instance": "beef", "version": "{SHA}", "number": 3, "backend": "jax",
  "readings": {{
    "received": 1000, "malformed": 2, "dropped": 3, "rate": 12.5, "last_error": "data: expected 2 values"
  }},
  "attributes": ["gpu=true"],
  "detail": "epoch 1 of 2", "last_error": "", "round": 4, "window": 900, "new_readings": 40, "progress": 0.5,
  "loss": 0.25, "accepted": 3, "refused": 1, "drift": 0.125, "quarantined": 7,
  "scored": 0, "anomalies": 0, "threshold": null, "version_scored": 0, "version_anomalies": 0
}}"""

STATISTICS = Statistics(
    version=SHA,
    found=Found(
        normal=Histogram(bins=(1000, 1001), counts=(5, 6)),
        anomalous=Histogram(bins=(1500,), counts=(1,)),
        loss_sum=2.5,
        readings=11,
    ),
    best=SHA,
    found_of_best=Found(normal=Histogram(bins=(1002,), counts=(11,)), loss_sum=3.5, readings=11),
)
STATISTICS_JSON = f"""{{
  "v": 1, "version": "{SHA}",
  "found": {{
    "normal": {{"bins": [1000, 1001], "counts": [5, 6]}},
    "anomalous": {{"bins": [1500], "counts": [1]}}, "labelled_normal": {{"bins": [], "counts": []}},
    "loss_sum": 2.5, "readings": 11
  }},
  "best": "{SHA}",
  "found_of_best": {{
    "normal": {{"bins": [1002], "counts": [11]}},
    "anomalous": {{"bins": [], "counts": []}}, "labelled_normal": {{"bins": [], "counts": []}},
    "loss_sum": 3.5, "readings": 11
  }}
}}"""

FEATURES = FeatureReport(
    base=SHA,
    readings=5,
    features=(FeatureSums(count=4, missing=1, mean=0.5, m2=2.5, bins=(-3, 7), counts=(1, 3)),),
    categories=(CategorySums(values=(8703828, 7), counts=(3, 1), other=1),),
)
FEATURES_JSON = f"""{{
  "v": 1, "base": "{SHA}", "readings": 5,
  "features": [{{"count": 4, "missing": 1, "mean": 0.5, "m2": 2.5, "bins": [-3, 7], "counts": [1, 3]}}],
  "categories": [{{"values": [8703828, 7], "counts": [3, 1], "other": 1}}]
}}"""

ANOMALY = Anomaly(id="r-17", score=9.5, threshold=0.5, version=SHA, number=3, suppressed=2, timestamp=1700000000)
ANOMALY_JSON = f"""{{
  "v": 1, "id": "r-17", "score": 9.5, "threshold": 0.5, "version": "{SHA}", "number": 3, "suppressed": 2,
  "timestamp": 1700000000
}}"""

SCORES = Scores(
    node="jetson-07", version=SHA, number=3, threshold=0.5, ids=["a", 2, None], scores=[0.1, 0.2, 9.5],
    verdicts=[False, False, True],
)  # fmt: skip
SCORES_JSON = f"""{{
  "v": 1, "node": "jetson-07", "version": "{SHA}", "number": 3, "threshold": 0.5, "ids": ["a", 2, null],
  "scores": [0.1, 0.2, 9.5], "verdicts": [false, false, true], "outputs": null
}}"""

GOLDEN = [
    (MANIFEST, MANIFEST_JSON),
    (ROUND, ROUND_JSON),
    (OFFER, OFFER_JSON),
    (REPLY, REPLY_JSON),
    (HISTORY, HISTORY_JSON),
    (MANAGER_STATUS, MANAGER_STATUS_JSON),
    (NODE_STATUS, NODE_STATUS_JSON),
    (STATISTICS, STATISTICS_JSON),
    (ANOMALY, ANOMALY_JSON),
    (
        Command(command="rollback", version=SHA, hold=False),
        f'{{"v": 1, "command": "rollback", "version": "{SHA}", "hold": false, "other": null}}',
    ),
    (
        Answer(ok=False, message="no such version"),
        '{"v": 1, "ok": false, "message": "no such version", "differences": []}',
    ),
    (
        Answer(ok=True, differences=(Difference(path="dense/kernel", role="trainable", change=0.5, norm=2.0),)),
        """{"v": 1, "ok": true, "message": "", "differences": [
          {"path": "dense/kernel", "role": "trainable", "change": 0.5, "norm": 2.0}]}""",
    ),
    (FEATURES, FEATURES_JSON),
    (SCORES, SCORES_JSON),
]
