"""Who is there: the nodes' last statuses, and who of them may take part."""

from collections.abc import Sequence

from dl_mqtt_clients.wire.messages import NodeStatus


class Roster:
    """One small record a node and role. `allowed`: the ids that may take part; empty: any."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = frozenset(allowed)
        self._states: dict[tuple[str, str], str] = {}

    def heard(self, node: str, role: str, status: NodeStatus | None) -> None:
        """A node's status; None when it was cleared."""
        if status is None:
            self._states.pop((node, role), None)
        else:
            self._states[node, role] = status.state

    def is_known(self, node: str) -> bool:
        return not self._allowed or node in self._allowed

    def live_trainers(self) -> set[str]:
        return {node for node, role in self._live() if role == "trainer" and self.is_known(node)}

    def live_nodes(self) -> set[str]:
        return {node for node, _ in self._live()}

    def _live(self) -> list[tuple[str, str]]:
        return [key for key, state in self._states.items() if state not in ("lost", "stopped")]
