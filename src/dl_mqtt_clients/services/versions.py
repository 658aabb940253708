"""The manager's versions: the newest one, and what merging adds to them."""

import datetime as dt
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from safetensors.numpy import load, save

from dl_mqtt_clients.aggregation.controls import ControlChange, control_of_all
from dl_mqtt_clients.aggregation.files import write_json
from dl_mqtt_clients.aggregation.scaler import Scaler
from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.aggregation.strategies import Merged
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import ConfigurationError, ModelError
from dl_mqtt_clients.services.from_settings import use_backend_of
from dl_mqtt_clients.services.given_model import check_objective, check_optimizer, given_model, marked
from dl_mqtt_clients.services.graph_blob import checked_graph
from dl_mqtt_clients.services.production import alone
from dl_mqtt_clients.wire.controls import control_positions
from dl_mqtt_clients.wire.messages import Blob, Manifest, Metrics, Variable
from dl_mqtt_clients.wire.weights import blob_positions, encode, is_divided, key, update_positions

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.model import FederatedModel
    from dl_mqtt_clients.learning.scaling import ScalerValues
    from dl_mqtt_clients.learning.vocabularies import Categorical

log = logging.getLogger(__name__)


class Versions:
    """Loads or creates the newest version; `merge` makes the next. `Production` says which is in production."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        model: object | None,
        features: Sequence[str],
        scaler: "ScalerValues | None",
        fresh: bool,
    ) -> None:
        self._store = store
        self._settings = settings
        self._folder = Path(settings.artifacts.dir) / "updated_model"
        self._weights: list[np.ndarray]
        self._exported: Manifest | None = None
        use_backend_of(settings)
        given = given_model(settings, model, features, scaler)
        if given is not None:
            given.take_roles(marked(settings, given.variables))
        check_optimizer(settings)
        current = store.stages.current
        if current is None or fresh:
            self._begin(given)
        else:
            self._resume(current, given)
        check_objective(settings, self._model)
        if settings.model.onnx and "onnx" not in self.current.blobs:
            self._add_graph()
        self.update_positions = update_positions(self.variables)
        self.update_shapes = [tuple(self.variables[p].shape) for p in self.update_positions]
        self._reachable = {m.version: m for m in self.published()}

    # ---- what there is ----

    @property
    def current(self) -> Manifest:
        manifest = self._store.stages.current
        if manifest is None:
            raise ModelError("versions: there is no version yet")
        return manifest

    @property
    def production(self) -> Manifest | None:
        return self._store.stages.production

    @property
    def best(self) -> Manifest | None:
        """Of the versions promoted in this lineage: a candidate has to be as good."""
        return self._store.stages.best

    @property
    def variables(self) -> tuple[Variable, ...]:
        return self.current.variables

    @property
    def n_features(self) -> int:
        return self._model.n_features

    @property
    def categorical(self) -> "Categorical":
        return self._model.categorical

    @property
    def opens_lineage(self) -> bool:
        """Whether the newest version only has another scaler than the one before: nobody has trained it."""
        before = self._store.version(self.current.base) if self.current.base else None
        return before is not None and before.lineage != self.current.lineage

    @property
    def is_best_again(self) -> bool:
        """Whether the newest version has the weights of the best one: training has returned to it."""
        return self.best is not None and self.current.blobs["weights"] == self.best.blobs["weights"]

    @property
    def weights(self) -> list[np.ndarray]:
        """Of the newest version, in the order of `variables`; not to be changed."""
        return self._weights

    def stale(self, most: int) -> dict[str, int]:
        """Versions that the newest descends from -> how many versions back, at most `most`."""
        bases: dict[str, int] = {}
        manifest = self.current
        for back in range(1, most + 1):
            before = self._store.version(manifest.base) if manifest.base else None
            if before is None or before.lineage != manifest.lineage or before.generation != manifest.generation:
                break
            bases[before.version], manifest = back, before
        return bases

    def strategy_state(self, strategy: str) -> dict[str, np.ndarray] | None:
        """What this strategy kept of the last round; None when it was merged by another one."""
        stages = self._store.stages
        if stages.strategy_state is None or stages.strategy != strategy:
            return None
        state: dict[str, np.ndarray] = load(self._store.blob(stages.strategy_state))
        return state

    def published(self) -> list[Manifest]:
        return [m for m in (self.current, self.production, self._store.stages.canary) if m is not None]

    def reachable(self) -> list[Manifest]:
        """What somebody may still be fetching: published now, or until the last merge."""
        return [*self._reachable.values(), *self.published()]

    # ---- what changes ----

    def merge(
        self,
        merged: Merged,
        *,
        round_number: int,
        metrics: Metrics,
        strategy: str,
        updates: dict[str, str],
    ) -> None:
        """The newest version plus what was merged is the new newest version; durable, with the strategy's state.

        `updates`: node -> hash of what was merged, so that whoever missed its receipt gets it still.
        """
        weights = list(self._weights)
        for position, change in zip(self.update_positions, merged.change, strict=True):
            base = weights[position]
            weights[position] = np.empty_like(base)  # added in float64, but not with copies of all of it in float64
            np.add(base, change, out=weights[position], dtype=np.float64, casting="unsafe")
        strategy_state = self._store.put_blob(save(merged.state)) if merged.state else None
        beside, kept = self._with_controls(merged.controls)
        del merged  # two models in float64, before the next copy is made
        self._reachable = {m.version: m for m in self.published()}
        before = self.current
        self._write(
            weights,
            msgspec.structs.replace(
                before, number=before.number + 1, round=round_number, base=before.version,
                threshold=None, metrics=metrics, **self._best_of(before, beside),
            ),
            controls=kept,
            recent=dict(list((self._store.stages.recent | updates).items())[-_RECENT:]),
            strategy=strategy,
            strategy_state=strategy_state,
        )  # fmt: skip
        self._weights = weights  # only now: should writing fail, the same round is merged again
        try:
            self._store.keep(self._settings.rounds.keep_versions)
        except OSError as error:
            log.warning("old versions cannot be deleted: %s", error)

    def rescale(self, scaler: Scaler) -> None:
        """The newest version with another scaler and its vocabularies: the first of a new lineage."""
        places = [i for i, v in enumerate(self.variables) if v.role == "scaler"]
        weights = list(self._weights)
        values = [scaler.offset, scaler.scale, *([scaler.codes] if scaler.codes.size else [])]
        for place, value in zip(places, values, strict=True):
            weights[place] = value.reshape(self.variables[place].shape).astype(self.variables[place].dtype)
        self._reachable = {m.version: m for m in self.published()}
        before = alone(self.current)
        self._write(
            weights,
            msgspec.structs.replace(
                before, number=before.number + 1, base=before.version, threshold=None, metrics=Metrics(),
                lineage=_lineage(before.blobs, [weights[p] for p in places]),
            ),
            scaler="agreed", best=None, recent={}, strategy="", strategy_state=None,
        )  # fmt: skip
        self._weights = weights

    def return_to_best(self) -> None:
        """The best version's weights as the newest version. ModelError when there is no best in this lineage."""
        best, before = self.best, self.current
        if best is None or best.lineage != before.lineage:
            raise ModelError("versions: expected a promoted version of the present lineage. Received: none")
        weights = self._weights_of(best)
        self._reachable = {m.version: m for m in self.published()}
        like = msgspec.structs.replace(
            before, number=before.number + 1, base=before.version, threshold=None, metrics=best.metrics,
            **self._best_of(before, {name: blob for name, blob in before.blobs.items() if name == "controls"}),
        )  # fmt: skip
        self._write(weights, like, strategy="", strategy_state=None)
        self._weights = weights

    def _with_controls(self, change: ControlChange | None) -> tuple[dict[str, Blob], dict[str, str]]:
        """The control of all as a blob of the next manifest, and the sum behind it, by lineage."""
        lineage, controls = self.current.lineage, self._store.stages.controls
        if change is None:
            return {}, controls  # nodes keep theirs as well, should it be wanted again
        total, name = change.total, controls.get(lineage)
        if name is not None:
            held = load(self._store.blob(name))
            total = [held[key(i)] + part for i, part in enumerate(total)]
        data = encode(control_of_all(total, change.nodes), control_positions(self.variables))
        return {"controls": self._blob(self._store.put_blob(data), len(data))}, {
            lineage: self._store.put_blob(encode(total))
        }

    def _best_of(self, before: Manifest, beside: Mapping[str, Blob]) -> dict[str, Any]:
        """What a manifest says of the best version of its lineage, and what else only trainers need."""
        best, blobs = self.best, {**alone(before).blobs, **beside}
        if best is None or best.lineage != before.lineage:
            return {"best": None, "blobs": blobs}
        return {"best": best.version, "blobs": {**blobs, "best": best.blobs["weights"]}}

    def export(self) -> None:
        """Write `updated_model/model.keras` and `version.json` for people and other programs, unless just done."""
        manifest = self.production or self.current
        if manifest == self._exported:
            return
        self._model.set_weights(self._weights_of(manifest))
        self._model.save(self._folder / "model.keras", threshold=manifest.threshold)
        facts = msgspec.to_builtins(manifest)
        facts.pop("variables")
        facts["written"] = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        write_json(self._folder / "version.json", facts)
        self._exported = manifest

    # ---- where it comes from ----

    def _begin(self, given: "FederatedModel | None") -> None:
        if given is None:
            folder = Path(self._settings.artifacts.dir) / "model"
            raise ConfigurationError(
                [f"model: expected a base model in {folder} (make it with: fedlearn model build). Received: none"]
            )
        self._store.fresh(at_least=time.time_ns() // 1_000_000)
        self._model, self._weights = given, given.get_weights()
        architecture = self._store.put_blob(given.architecture)
        blobs = {"architecture": self._blob(architecture, len(given.architecture)), **self._frozen(given.variables)}
        scaler = [w for w, v in zip(self._weights, given.variables, strict=True) if v.role == "scaler"]
        self._write(
            self._weights,
            Manifest(
                stage="global", generation=self._store.generation, serial=1, version=_NONE, number=0, round=0,
                lineage=_lineage(blobs, scaler),
                task=given.task, features=given.features, categorical=given.categorical.columns,
                variables=given.variables,
                blobs=blobs,
            ),
        )  # fmt: skip

    def _resume(self, current: Manifest, given: "FederatedModel | None") -> None:
        from dl_mqtt_clients.learning.architecture import rebuild  # noqa: PLC0415 - imports Keras

        architecture = self._store.blob(current.blobs["architecture"].sha256)
        self._weights = self._weights_of(current)
        if given is not None:
            self._check_same(given, architecture, current)
            self._check_personal(given.variables)
        else:
            self._check_personal(marked(self._settings, current.variables))
        self._model = given or rebuild(
            architecture,
            max_parameters=self._settings.model.max_parameters,
            custom_modules=self._settings.model.custom_modules,
        )
        log.info("continuing generation %d at version %d", current.generation, current.number)

    def _check_same(self, given: "FederatedModel", architecture: bytes, current: Manifest) -> None:
        """ConfigurationError when the given model, or its scaler, is not what this state was made with."""
        scaler = [
            (a, b)
            for a, b, v in zip(given.get_weights(), self._weights, current.variables, strict=False)
            if v.role == "scaler"
        ]
        other = "model" if given.architecture != architecture else ""
        is_given = self._store.stages.scaler != "agreed"
        other = other or ("scaler" if is_given and not all(np.array_equal(a, b) for a, b in scaler) else "")
        if other:
            raise self._made_with(other)

    def _check_personal(self, variables: Sequence[Variable]) -> None:
        """ConfigurationError when others stay on the nodes than this state was made with."""
        if [v.role == "personal" for v in variables] != [v.role == "personal" for v in self.variables]:
            raise self._made_with("model.personal")

    def _made_with(self, what: str) -> ConfigurationError:
        hint = "start a new generation with --fresh, or use another node.state_dir"
        made = f"expected the {what.rpartition('.')[2]} that {self._store.folder} was made with"
        return ConfigurationError([f"{what}: {made}. Received: another one ({hint})"])

    def _weights_of(self, manifest: Manifest) -> list[np.ndarray]:
        return self._store.weights(manifest)

    def _frozen(self, variables: Sequence[Variable]) -> dict[str, Blob]:
        """The blob of what no round changes, where there is such: published once, fetched once."""
        if not is_divided(variables):
            return {}
        positions = blob_positions(variables, ("frozen",))["frozen"]
        data = encode([self._weights[p] for p in positions], positions)
        return {"frozen": self._blob(self._store.put_blob(data), len(data))}

    def _add_graph(self) -> None:
        """The versions stay what they are; their manifests name the ONNX graph of their architecture as well."""
        data = checked_graph(self._model, self._settings)
        graph = {"onnx": self._blob(self._store.put_blob(data), len(data))}
        stages = self._store.stages
        serial = stages.serial + 1
        named = {
            stage: msgspec.structs.replace(held, serial=serial, blobs=held.blobs | graph)
            for stage, held in (("current", stages.current), ("production", stages.production))
            if held is not None
        }
        self._store.write_stages(msgspec.structs.replace(stages, serial=serial, **named))

    def _write(self, weights: list[np.ndarray], like: Manifest, **rest: Any) -> None:
        """Make a version durable and current, with the `rest` of the stages."""
        positions = blob_positions(like.variables, like.blobs)["weights"]
        data = encode([weights[p] for p in positions], positions)
        name = self._store.put_blob(data)
        blobs = {**like.blobs, "weights": self._blob(name, len(data))}
        version = hashlib.sha256("\n".join([*_unchanging(blobs), name, like.base or ""]).encode()).hexdigest()
        stages = self._store.stages
        manifest = msgspec.structs.replace(like, version=version, blobs=blobs, serial=stages.serial + 1)
        self._store.put_version(manifest)
        self._store.write_stages(msgspec.structs.replace(stages, serial=manifest.serial, current=manifest, **rest))

    def _blob(self, name: str, size: int) -> Blob:
        return Blob(sha256=name, bytes=size, chunk_bytes=self._settings.transfer.chunk_bytes)


def _lineage(blobs: Mapping[str, Blob], scaler: Sequence[np.ndarray]) -> str:
    """Names what weights must have in common to be averaged."""
    return hashlib.sha256("".join(_unchanging(blobs)).encode() + encode(scaler)).hexdigest()


def _unchanging(blobs: Mapping[str, Blob]) -> list[str]:
    """Hashes of what all versions of a lineage share."""
    return [blobs[name].sha256 for name in ("architecture", "frozen") if name in blobs]


_NONE = "0" * 64
_RECENT = 10_000  # nodes
