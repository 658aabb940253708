"""What is in production, what some predictors try before it is, and what goes back there."""

from typing import Any

import msgspec

from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.wire.messages import Blob, Manifest, Metrics
from dl_mqtt_clients.wire.topics import Stage


class Production:
    """Every change is durable and has a higher serial, so that predictors follow it, back as well."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def now(self) -> Manifest | None:
        return self._store.stages.production

    @property
    def canary(self) -> Manifest | None:
        """The candidate that some predictors try before it is promoted."""
        return self._store.stages.canary

    @property
    def is_newest(self) -> bool:
        """Whether the newest version is in production."""
        return self.now is not None and self.now.version == self._current.version

    @property
    def _current(self) -> Manifest:
        manifest = self._store.stages.current
        if manifest is None:
            raise ModelError("versions: there is no version yet")
        return manifest

    @property
    def on_hold(self) -> bool:
        """After a rollback: nothing is promoted but by an operator's word."""
        return self._store.stages.on_hold

    def end_hold(self) -> None:
        """What the gate finds counts again."""
        if self.on_hold:
            self._store.write_stages(msgspec.structs.replace(self._store.stages, on_hold=False))

    def promote(self, *, threshold: float | None, metrics: Metrics, becomes_best: bool = True) -> bool:
        """Put the newest version into production, or give it a better threshold; False when nothing changes."""
        stages, before = self._store.stages, self.now
        production = self._newest_for("production", 1.0, threshold=threshold, metrics=metrics)
        if before is not None and production == msgspec.structs.replace(before, serial=production.serial):
            return False
        self._store.put_version(production)
        self._publish(production, best=production if becomes_best else stages.best)
        return True

    def begin_canary(self, share: float, *, threshold: float | None, metrics: Metrics) -> None:
        """Publish the newest version for a share of the predictors."""
        canary = self._newest_for("canary", share, threshold=threshold, metrics=metrics)
        self._store.write_stages(msgspec.structs.replace(self._store.stages, serial=canary.serial, canary=canary))

    def end_canary(self, *, promote: bool, becomes_best: bool = False) -> None:
        """Put the canary into production; or what is there once more, so that its predictors go back to it."""
        stages = self._store.stages
        chosen = stages.canary if promote else stages.production
        self._store.write_stages(msgspec.structs.replace(stages, canary=None))
        if chosen is None:
            return
        production = msgspec.structs.replace(chosen, stage="production", share=1.0, serial=stages.serial + 1)
        if promote:
            self._store.put_version(production)
        self._publish(production, best=production if promote and becomes_best else stages.best)

    def restore(self, version: str, *, hold: bool) -> Manifest:
        """Put an earlier version into production, and call a canary back; later ones have to be as good.

        ModelError, and nothing changed, when it is not kept.
        """
        kept = self._store.version(version)
        if kept is None or kept.generation != self._store.generation:
            raise ModelError(f"versions: expected a kept version of this generation. Received: {version[:64]}")
        if kept.lineage != self._current.lineage:
            raise ModelError(f"versions: expected one of the present lineage. Received: version {kept.number}")
        stages = self._store.stages
        threshold = kept.threshold
        if threshold is None and self.now is not None:  # it was never promoted
            threshold = self.now.threshold
        production = msgspec.structs.replace(
            alone(kept), stage="production", serial=stages.serial + 1, threshold=threshold,
            blobs=alone(kept).blobs | _graph_of(self._current),
        )  # fmt: skip
        self._publish(production, best=production, canary=None, on_hold=hold)
        return production

    def _newest_for(self, stage: Stage, share: float, *, threshold: float | None, metrics: Metrics) -> Manifest:
        """With the threshold of what is in production while its own is not known."""
        if threshold is None and self.now is not None:
            threshold = self.now.threshold
        return msgspec.structs.replace(
            alone(self._current), stage=stage, share=share, serial=self._store.stages.serial + 1, threshold=threshold,
            metrics=metrics,
        )  # fmt: skip

    def _publish(self, production: Manifest, *, best: Manifest | None, **rest: Any) -> None:
        """Durably, with the `rest` of the stages."""
        stages = self._store.stages
        self._store.write_stages(
            msgspec.structs.replace(stages, serial=production.serial, production=production, best=best, **rest)
        )


def alone(manifest: Manifest) -> Manifest:
    """Without what only trainers need: its comparison with another version, the control of all."""
    blobs = {name: blob for name, blob in manifest.blobs.items() if name not in ("best", "controls")}
    return msgspec.structs.replace(manifest, best=None, blobs=blobs)


def _graph_of(manifest: Manifest) -> dict[str, Blob]:
    """The ONNX graph, which earlier versions of the generation may not name yet."""
    return {name: blob for name, blob in manifest.blobs.items() if name == "onnx"}
