#!/usr/bin/env python3
"""The packages and the service where they are at home: installed on a system whose PID 1 is systemd, against a real
broker. Started, watched, crashed, reloaded, upgraded, stopped, removed, one step after another.

  service_test.py BUILD OUTPUT: packages BUILD into OUTPUT first. Wants LOPE_TEST_AMQP_URL and LOPE_TEST_BROKER_DIR.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import uuid

from container import Container, eventually, in_own_namespaces

kSource = pathlib.Path(__file__).resolve().parents[2]
kUrl = os.environ.get("LOPE_TEST_AMQP_URL", "")
kQueue = f"orders-{os.getpid()}"
kPassword = uuid.uuid4().hex
kUser = f"lope-{os.getpid()}"
kCredential = "broker-password:/etc/lope/broker-password"
kHandled = "/var/lib/lope/handled"
kRate = 300  # messages a second, during the upgrade


def rabbitmqctl(*arguments):
    script = str(kSource / "tests/support/broker.sh")
    done = subprocess.run([script, "ctl", os.environ["LOPE_TEST_BROKER_DIR"], *arguments],
                          capture_output=True, text=True)
    assert done.returncode == 0, f"rabbitmqctl: {done.stdout}{done.stderr}"


def configuration(handled=kHandled, workers=2, work_us=0, queue=kQueue):
    return f"""broker:
  url: amqp://{kUrl.rsplit("@", 1)[1]}
  user: {kUser}
  password: {{ credential: broker-password }}
handlers_dir: /srv/handlers
groups:
  orders:
    queue: {queue}
    handler: append_id
    workers: {workers}
    options: {{ file: {handled}, work_us: {work_us} }}
    declare: {{ durable: true, type: quorum }}
"""


class Steps:
    """In the order in which they stand; each leaves the service running for the next."""

    def __init__(self, machine, build, packages):
        self.machine = machine
        self.build = build
        self.packages = packages

    def publish(self, count, prefix, rate=0):
        """Starts a publisher of messages PREFIX-1 to PREFIX-count."""
        command = [f"{self.build}/bin/lope", "publish", "--broker", kUrl, "--queue", kQueue, "--count", str(count),
                   "--message-id", prefix, "x"]
        return subprocess.Popen(command + (["--rate", str(rate)] if rate else []), stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def confirmed(self, publisher):
        text = publisher.communicate(timeout=60)[0]
        assert publisher.returncode == 0, text

    def handled(self, prefix):
        return [line for line in self.machine.read(kHandled).split("\n") if line.startswith(prefix + "-")]

    def goes_on(self, prefix):
        """Messages come through."""
        self.confirmed(self.publish(5, prefix))
        eventually(f"messages {prefix} are handled", lambda: len(set(self.handled(prefix))) == 5)

    def restarted(self, before):
        """The service runs again after it ended by itself. `before`: NRestarts and MainPID."""
        def look():
            state, restarts, main = self.machine.unit("lope", "ActiveState", "NRestarts", "MainPID")
            return state == "active" and int(restarts) == int(before[0]) + 1 and main not in ("0", before[1])
        eventually("the service is started again", look)

    def phrases(self, invocation):
        """The log lines of one life of the service: priority and text."""
        entries = self.machine.journal("lope", f"_SYSTEMD_INVOCATION_ID={invocation}")
        return [(entry["PRIORITY"], entry["MESSAGE"]) for entry in entries if isinstance(entry["MESSAGE"], str)]

    def test_installing_starts_nothing(self):
        m = self.machine
        for package in self.packages.glob("*.deb"):
            m.bring(package, "/root/packages")
        # The index of all manual pages takes seconds, and is nothing of ours.
        m.run("rm", "-f", "/var/lib/man-db/auto-update")
        m.run("sh", "-c", "dpkg -i /root/packages/*.deb")
        assert m.run("systemctl", "is-enabled", "lope", check=False).stdout.strip() == "disabled"
        assert m.unit("lope", "ActiveState") == "inactive"
        owners = m.run("stat", "-c", "%U:%G %a", "/etc/lope", "/etc/lope/lope.yaml").stdout.split("\n")
        assert owners[:2] == ["root:lope 750", "root:lope 640"], owners
        assert "/etc/lope/lope.yaml" in m.run("dpkg-query", "-W", "-f", "${Conffiles}", "lope").stdout
        assert "handler log" in m.run("lope", "check").stdout
        assert "python 1." in m.run("lope", "inspect", "/usr/lib/lope/handlers/python.so").stdout
        m.run("sh", "-c", "man -w lope lope-run lope.yaml lope-handler")
        m.run("sh", "-c", "echo '#include <lope/handler.h>' | cc $(pkg-config --cflags lope) -fsyntax-only -x c -")

    def test_start_waits_for_ready(self):
        m = self.machine
        m.bring(self.build / "tests/handlers/append_id.so", "/srv/handlers")
        m.write("/etc/lope/lope.yaml", configuration())
        m.write("/etc/lope/broker-password", kPassword, 0o600)
        # The units as they are, but for the password, and for what would take long.
        m.write("/etc/systemd/system/lope.service.d/test.conf",
                f"[Service]\nLoadCredential={kCredential}\nWatchdogSec=2s\nRestartSec=200ms\n")
        m.write("/etc/systemd/system/lope@.service.d/test.conf", f"[Service]\nLoadCredential={kCredential}\n")
        m.run("systemctl", "daemon-reload")
        m.run("systemctl", "enable", "lope")
        starting = m.start("systemctl", "start", "lope")
        eventually("STATUS= says what is missing", lambda: "ACCESS_REFUSED" in m.unit("lope", "StatusText"))
        assert m.unit("lope", "ActiveState") == "activating"
        assert starting.poll() is None, "systemctl start did not wait"
        add_user()
        assert starting.wait(60) == 0, starting.stdout.read()
        assert m.unit("lope", "ActiveState") == "active"

    def test_status_is_shown(self):
        shown = self.machine.run("systemctl", "status", "lope").stdout
        assert 'Status: "1 of 1 groups consuming, 2 of 2 workers ready"' in shown, shown
        assert re.search(r"^orders +consuming", self.machine.run("lope", "status").stdout, re.MULTILINE)

    def test_the_credential_is_what_it_logs_in_with(self):
        # The broker knows no other password of this user, and no environment or file but the credential has it.
        self.goes_on("credential")
        folder = "/run/credentials/lope.service"
        assert self.machine.read_inside(folder + "/broker-password") == kPassword
        # As docs/operations.md has it.
        asked = self.machine.run("systemd-run", "--quiet", "--wait", "--pipe", "-p", f"LoadCredential={kCredential}",
                                 "lope", "check", "--broker")
        assert "group 'orders': ok on the broker" in asked.stdout, asked.stdout
        assert "note: broker.password: the credential" in self.machine.run("sh", "-c", "lope check 2>&1").stdout
        self.machine.run("env", "CREDENTIALS_DIRECTORY=/etc/lope", "lope", "dlq", "list", "--config",
                         "/etc/lope/lope.yaml", kQueue)

    def test_it_runs_as_its_own_user_without_capabilities(self):
        m = self.machine
        uid = m.run("id", "-u", "lope").stdout.strip()
        processes = m.processes(m.unit("lope", "MainPID"))
        assert len(processes) == 5, processes  # supervisor, consumer, two workers, relay
        for pid in processes:
            lines = m.read_inside(f"/proc/{pid}/status").splitlines()
            status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            assert status["Uid"].split() == [uid] * 4, status["Uid"]
            assert {status[each] for each in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}, status
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        m.run("systemd-analyze", "security", "--threshold=15", "--no-pager", "lope.service")

    def test_journal_lines_have_their_level(self):
        lines = self.phrases(self.machine.unit("lope", "InvocationID"))
        for priority, phrase in (("6", "starting "), ("4", "cannot connect"), ("6", "ready ")):
            assert any(found == priority and phrase in text for found, text in lines), (priority, phrase, lines)

    def test_reload(self):
        m = self.machine
        if m.run("lope", "reload", "--help", check=False).returncode != 0:
            print("    not looked at: this version has no lope reload")
            return
        main = m.unit("lope", "MainPID")
        m.write("/etc/lope/lope.yaml", configuration(workers=3))
        m.run("systemctl", "reload", "lope")
        assert json.loads(m.run("lope", "status", "--json").stdout)["groups"][0]["workers_wanted"] == 3
        m.write("/etc/lope/lope.yaml", configuration() + "nonsense: 1\n")
        assert m.run("systemctl", "reload", "lope", check=False).returncode != 0
        assert m.unit("lope", "ActiveState", "MainPID") == ["active", main]
        m.write("/etc/lope/lope.yaml", configuration())
        m.run("systemctl", "reload", "lope")
        self.goes_on("reload")

    def test_the_watchdog_restarts_a_supervisor_that_stands_still(self):
        m = self.machine
        before = m.unit("lope", "NRestarts", "MainPID")
        m.run("kill", "-STOP", before[1])
        self.restarted(before)
        assert not m.processes(before[1]), "something of the old one is left"
        assert any("watchdog" in entry["MESSAGE"].lower() for entry in m.journal("lope", "_COMM=systemd"))
        self.goes_on("watchdog")

    def test_a_crash_is_followed_by_a_restart(self):
        m = self.machine
        before = m.unit("lope", "NRestarts", "MainPID")
        m.run("kill", "-SEGV", before[1])
        self.restarted(before)
        assert not m.processes(before[1]), "something of the old one is left"
        self.goes_on("crash")

    def test_a_refused_configuration_is_not_started_again(self):
        m = self.machine
        m.write("/etc/lope/lope.yaml", configuration() + "nonsense: 1\n")
        m.run("systemctl", "restart", "lope", check=False)
        # With a restart to come it would be "activating".
        found = m.unit("lope", "ActiveState", "SubState", "ExecMainStatus")
        assert found == ["failed", "failed", "78"], found
        lines = self.phrases(m.unit("lope", "InvocationID"))
        assert any(priority == "3" and "unknown key 'nonsense'" in text for priority, text in lines), lines
        m.write("/etc/lope/lope.yaml", configuration())
        m.run("systemctl", "start", "lope")
        self.goes_on("refused")

    def test_stop_drains(self):
        m = self.machine
        m.write("/etc/lope/lope.yaml", configuration(work_us=700_000))
        m.run("systemctl", "restart", "lope")
        self.confirmed(self.publish(6, "drain"))
        eventually("both workers are busy",
                   lambda: json.loads(m.run("lope", "status", "--json").stdout)["groups"][0]["running"] == 2)
        invocation = m.unit("lope", "InvocationID")
        begun = time.monotonic()
        m.run("systemctl", "stop", "lope")
        assert time.monotonic() - begun < 60, "longer than TimeoutStopSec"
        assert m.unit("lope", "ActiveState", "Result") == ["inactive", "success"]
        ledger = [text for _, text in self.phrases(invocation) if text.split(" ", 1)[-1].startswith("ledger ")]
        assert len(ledger) == 1 and re.search(r"finished=[1-9]\d* handed_back=\d+ killed=0 exit=0", ledger[0]), ledger
        m.write("/etc/lope/lope.yaml", configuration())
        m.run("systemctl", "start", "lope")
        eventually("the rest is handled", lambda: len(self.handled("drain")) == 6)
        assert len(set(self.handled("drain"))) == 6, "handled twice"

    def test_a_kill_of_the_process_group_is_a_stop(self):
        m = self.machine
        restarts, main = m.unit("lope", "NRestarts", "MainPID")
        m.run("kill", "-TERM", "--", f"-{main}")
        eventually("the service has ended", lambda: m.unit("lope", "ActiveState") == "inactive")
        assert m.unit("lope", "Result", "NRestarts") == ["success", restarts]
        assert not m.processes(main)
        m.run("systemctl", "start", "lope")

    def test_an_instance_lives_beside_the_service(self):
        m = self.machine
        m.write("/etc/lope/second.yaml", configuration(handled="/var/lib/lope-second/handled", workers=1))
        m.run("systemctl", "enable", "--now", "lope@second")
        socket = ("--socket", "/run/lope-second/control.sock")
        assert "/etc/lope/second.yaml" in m.run("lope", "status", *socket).stdout
        m.run("systemctl", "stop", "lope")
        assert re.search(r"^orders +consuming", m.run("lope", "status", *socket).stdout, re.MULTILINE)
        m.run("systemctl", "start", "lope")

    def test_an_upgrade_loses_nothing(self):
        m = self.machine
        units = ("lope", "lope@second")
        mains = [m.unit(unit, "MainPID") for unit in units]
        files = (kHandled, "/var/lib/lope-second/handled")

        def handled():
            return [line for path in files for line in m.read(path).split("\n") if line.startswith("upgrade")]

        expected, upgraded, failures = set(), threading.Event(), []

        def publish_until_upgraded():
            try:
                while not upgraded.is_set():
                    prefix = f"upgrade{len(expected)}"
                    self.confirmed(self.publish(kRate, prefix, kRate))
                    expected.update(f"{prefix}-{n}" for n in range(1, kRate + 1))
            except BaseException as failure:
                failures.append(failure)

        publisher = threading.Thread(target=publish_until_upgraded)
        publisher.start()
        try:
            eventually("messages flow", handled)
            said = m.run("sh", "-c", "dpkg -i /root/packages/lope_*.deb 2>&1").stdout
            before = len(handled())
            eventually("messages flow on", lambda: len(handled()) > before)
        finally:
            upgraded.set()
            publisher.join()
        assert not failures, failures
        assert "lope@" not in said, said  # neither a question about the configuration nor an error
        assert [m.unit(unit, "ActiveState") for unit in units] == ["active"] * 2
        assert m.run("ls", "/usr/share/doc/lope/docs/monitoring").stdout.split() == [
            "alerts.yaml", "grafana.json", "journal.png", "status.png"]
        assert not set(mains) & {m.unit(unit, "MainPID") for unit in units}, "not started again"
        assert m.read("/etc/lope/lope.yaml") == configuration(), "the configuration was not kept"
        eventually("each message is handled", lambda: set(handled()) >= expected)
        print(f"    {len(expected)} messages at {kRate} a second, {len(handled()) - len(expected)} handled twice")
        assert len(handled()) == len(expected), "nothing failed, and still some were handled twice"

    def test_removal_and_purge_leave_nothing_but_the_user(self):
        m = self.machine
        m.run("dpkg", "-r", "lope", "lope-dev", "lope-python")
        assert [m.unit(unit, "ActiveState") for unit in ("lope", "lope@second")] == ["inactive"] * 2
        assert not m.run("pgrep", "-u", "lope", check=False).stdout
        assert m.read("/etc/lope/lope.yaml") == configuration()
        m.run("mkdir", "/var/lib/lope-backup")  # somebody else's
        m.run("rm", "-r", "/etc/systemd/system/lope.service.d", "/etc/systemd/system/lope@.service.d")
        m.run("dpkg", "--purge", "lope", "lope-dev", "lope-python")
        # What is not ours to delete.
        assert m.run("ls", "/etc/lope").stdout.split() == ["broker-password", "second.yaml"]
        m.run("rmdir", "/var/lib/lope-backup")
        m.run("rm", "-r", "/etc/lope")
        left = m.run("find", "/etc", "/usr", "/var", "/run", "/srv", "-xdev", "(", "-name", "lope*", "-o", "-name",
                     "*.lope", ")", "-not", "-path", "/usr/src/*").stdout.split()
        assert not left, left
        assert m.run("id", "-u", "lope").returncode == 0


def add_user():
    """In one go: rabbitmqctl takes a second to come up."""
    rabbitmqctl("eval", f'ok = rabbit_auth_backend_internal:add_user(<<"{kUser}">>, <<"{kPassword}">>, <<"test">>), '
                f'rabbit_auth_backend_internal:set_permissions(<<"{kUser}">>, <<"/">>, <<".*">>, <<".*">>, <<".*">>, '
                '<<"test">>).')


def clean_broker():
    rabbitmqctl("eval", f'catch rabbit_auth_backend_internal:delete_user(<<"{kUser}">>, <<"test">>), '
                f'case rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{kQueue}">>)) of '
                '{ok, Q} -> rabbit_amqqueue:delete(Q, false, false, <<"test">>); _ -> ok end.')


def main():
    in_own_namespaces()
    build, packages = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    assert kUrl, "LOPE_TEST_AMQP_URL is not set: ./dev test system sets it"
    begun = time.monotonic()
    made = subprocess.run([kSource / "packaging/package.sh", build, packages], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    print(f"packages are made\n    {time.monotonic() - begun:.1f} s", flush=True)
    lintian = subprocess.Popen(["lintian", "--allow-root", "--fail-on", "error", *packages.glob("*.deb")],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    only = sys.argv[3] if len(sys.argv) > 3 else ""
    try:
        with Container() as machine:
            steps = Steps(machine, build, packages)
            for name, step in vars(Steps).items():
                if not name.startswith("test_") or only not in name:
                    continue
                begun = time.monotonic()
                print(name.removeprefix("test_").replace("_", " "), flush=True)
                try:
                    step(steps)
                except BaseException:
                    print(machine.run("journalctl", "-n", "100", "--no-pager", check=False).stdout)
                    raise
                print(f"    {time.monotonic() - begun:.1f} s", flush=True)
        judgement = lintian.communicate(timeout=120)[0]
        assert lintian.returncode == 0, judgement
    finally:
        lintian.kill()
        clean_broker()


if __name__ == "__main__":
    main()
