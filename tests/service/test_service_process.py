"""The service as a process: start, load, drain on SIGTERM."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from service_fakes import payment

from lifecycle.deployment import running
from lifecycle.errors import LifecycleError

FAKE = (sys.executable, str(Path(__file__).with_name("service_fakes.py")))


def test_the_service_answers_under_load_and_ends_with_zero(tmp_path):
    with running.start("unused", capture_dir=tmp_path, clock="event", command=FAKE) as service:
        assert service.invoke(payment(amount=750))["decision"] == "review"
        assert [a["transaction_id"] for a in service.invoke([payment(1), payment(2)])] == [1, 2]
        result = running.load(service, [json.dumps(payment(i)) for i in range(300)], connections=3)
        assert service.stop() == 0
    assert (len(result.latencies), result.failures) == (300, 0)
    assert 0 < result.percentile(50) <= result.percentile(99)
    lines = [line for path in tmp_path.rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == 302, "SIGTERM must not lose captured requests"


def test_sigterm_lets_the_request_under_way_finish():
    answers = []
    with running.start("unused", command=FAKE) as service:
        slow = threading.Thread(target=lambda: answers.append(service.invoke(payment(terminal_id=999))))
        slow.start()
        time.sleep(0.2)
        assert service.stop() == 0
        slow.join()
    assert answers[0]["transaction_id"] == 1


def test_ping_answers_while_a_request_is_scored():
    with running.start("unused", command=FAKE) as service:
        slow = threading.Thread(target=lambda: service.invoke(payment(terminal_id=999)))
        slow.start()
        time.sleep(0.1)
        began = time.perf_counter()
        assert service.call("/ping")[0] == 200
        assert time.perf_counter() - began < 0.35
        slow.join()


def test_only_this_machine_can_connect_by_default():
    with running.start("unused", command=FAKE) as service:
        listening = Path(f"/proc/{service.process.pid}/net/tcp").read_text()
        port = f"{service.port:04X}"
        addresses = [line.split()[1] for line in listening.splitlines()[1:] if line.split()[3] == "0A"]
        assert [a.split(":")[0] for a in addresses if a.endswith(port)] == ["0100007F"]


def test_the_platform_chooses_the_port():
    port = running.free_port()
    process = subprocess.Popen(
        [*FAKE, "--model", "unused"], env=os.environ | {"SAGEMAKER_BIND_TO_PORT": str(port)}, stderr=subprocess.DEVNULL
    )
    try:
        service = running.Running(process, "127.0.0.1", port, Path("unused"))
        assert running._wait_healthy(service, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()


def test_a_port_in_use_is_one_sentence(capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*FAKE, "--model", "unused", "--port", str(port)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"The service could not listen on 127.0.0.1:{port}; choose another port."
    )


def test_a_missing_model_folder_is_one_sentence(tmp_path):
    with pytest.raises(LifecycleError, match="There is no model folder"), running.start(tmp_path / "none"):
        pass


def test_a_service_does_not_outlive_a_killed_starter(tmp_path):
    """A notebook that fails, or whose kernel is killed, must leave no server behind."""
    code = (
        "import os, sys; from lifecycle.deployment import running\n"
        f"with running.start('unused', command={FAKE!r}) as service:\n"
        "    print(service.port, flush=True); sys.stdin.read()"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    service = running.Running(starter, "127.0.0.1", int(starter.stdout.readline()), tmp_path)
    assert service.call("/ping")[0] == 200
    starter.kill()
    starter.wait()
    for _ in range(100):
        try:
            service.call("/ping")
        except OSError:
            return
        time.sleep(0.1)
    pytest.fail("the service still answers")
