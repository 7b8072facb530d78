"""The simulator as a process of its own."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from sync.simulator import Simulator


@pytest.mark.parametrize(
    ("flow", "end"), [("client_credentials", signal.SIGTERM), ("password", signal.SIGINT)]
)
def test_process(flow: str, end: signal.Signals) -> None:
    """It prints settings that work when pasted, ends on a signal with 0, and leaves no files behind."""
    command = [
        sys.executable,
        "-m",
        "sync.simulator",
        "--port",
        "0",
        "--accounts",
        "2",
        "--contacts",
        "3",
        "--flow",
        flow,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            lines: list[str] = []
            expected = 4 + (5 if flow == "client_credentials" else 8)
            while len(lines) < expected:
                lines.append(process.stdout.readline())
            pasted = subprocess.run(
                ["/bin/sh", "-c", "".join(lines) + "env"], capture_output=True, text=True, check=True, env={}
            ).stdout
            settings = dict(line.split("=", 1) for line in pasted.splitlines() if "=" in line)
            form = {
                "grant_type": flow,
                "client_id": settings["SALESFORCE_CLIENT_ID"],
                "client_secret": settings["SALESFORCE_CLIENT_SECRET"],
            }
            if flow == "password":
                form["username"] = settings["SALESFORCE_USERNAME"]
                form["password"] = settings["SALESFORCE_PASSWORD"] + settings["SALESFORCE_SECURITY_TOKEN"]
            ca_file = settings["REQUESTS_CA_BUNDLE"]
            with requests.Session() as http:
                http.trust_env = False
                http.verify = ca_file
                address = f"{settings['SALESFORCE_LOGIN_URL']}/services/oauth2/token"
                assert http.post(address, data=form, timeout=10).status_code == 200
            controls = next(line for line in lines if line.startswith("# curl ")).removeprefix("# ")
            answered = subprocess.run(
                ["/bin/sh", "-c", controls], capture_output=True, text=True, check=True, timeout=20
            )
            assert '"POST"' in answered.stdout
        finally:
            process.send_signal(end)
            process.wait(timeout=20)
        assert process.returncode == 0
        assert process.stderr.read() == ""
        assert not Path(ca_file).parent.exists()


def test_port_taken() -> None:
    """A port in use is an error at once, and nothing is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        Simulator(port=other.getsockname()[1])


def test_many_simulators_leave_nothing_open() -> None:
    """Simulators started one after the other close their sockets and files."""
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(3):
        with Simulator():
            pass
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after <= before
