from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pulumi_tfjobs.targets.local import ports
from pulumi_tfjobs.targets.local.ports import Ports, is_free, usable_range


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("32768\t60999\n", (20000, 32767)),
        ("10000 40000", (40001, 65535)),
        ("1024 65535", (20000, 65535)),  # nothing is left beside it
        ("nonsense", (20000, 32767)),
    ],
)
def test_ports_that_the_kernel_does_not_hand_out_itself(kernel: str, expected: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "range"
    path.write_text(kernel)
    assert usable_range(str(path)) == expected


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(ports, "usable_range", lambda: (taken, taken))
        claimed = Ports()
        with pytest.raises(OSError, match="0 of 1 ports are free"):
            claimed.take(1)


def test_a_port_that_listens_on_another_address_only_is_in_use() -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        assert not is_free(server.getsockname()[1], fresh=True)


def test_released_ports_can_be_claimed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Ports()
    (port,) = first.take(1)
    monkeypatch.setattr(ports, "usable_range", lambda: (port, port))
    second = Ports()
    with pytest.raises(OSError, match="free"):
        second.take(1)
    first.release()
    assert second.take(1) == [port]
    second.release()


def test_connections_of_a_server_that_has_ended_are_not_a_loss() -> None:
    claimed = Ports()
    (port,) = claimed.take(1)
    with socket.create_server(("127.0.0.1", port)) as server:
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the server's side closes first, so the port lingers in TIME_WAIT
        client.close()
    assert claimed.lost() == []
    claimed.release()
