#!/usr/bin/env python3
"""Two daemons with the same configuration on a cluster of three RabbitMQ nodes, of which one and the other is killed.

  cluster_test.py BUILD [MESSAGES]: so many (600) in each of two parts, at 300 a second. Starts its own nodes.
"""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from container import eventually

kSource = pathlib.Path(__file__).resolve().parents[2]
kScript = str(kSource / "tests/support/broker.sh")
kRate = 300


def broker(*arguments):
    done = subprocess.run([kScript, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"broker.sh {arguments}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class Cluster:
    """Its nodes are named as those of ./dev are, which removes them when this was killed."""

    def __init__(self):
        self.nodes = [f"testcluster{number}-{os.getpid()}" for number in (1, 2, 3)]
        self.urls = []

    def __enter__(self):
        try:
            self.urls = [broker("start", self.nodes[0])]
            joining = [subprocess.Popen([kScript, "join", node, self.nodes[0]], stdout=subprocess.PIPE, text=True)
                       for node in self.nodes[1:]]
            for each in joining:
                url = each.communicate()[0].strip()
                assert each.returncode == 0, "a node does not join"
                self.urls.append(url)
            broker("ctl", self.nodes[0], "await_online_nodes", "3")
        except BaseException:
            self.__exit__()
            raise
        return self

    def leader(self, queue, asked=0):
        """The index of the node that leads a queue, as one of them says."""
        listed = broker("ctl", self.nodes[asked], "list_queues", "--quiet", "--no-table-headers", "name", "leader")
        name = dict(line.split("\t") for line in listed.splitlines())[queue]
        return next(i for i, node in enumerate(self.nodes) if f"lope-{node}-" in name)

    def __exit__(self, *_):
        for node in reversed(self.nodes):
            subprocess.run([kScript, "remove", node], check=False, stdout=subprocess.DEVNULL)
            log = kSource / f"build/broker/{node}.log"
            if log.exists():
                log.rename(kSource / f"build/broker/{node.partition('-')[0]}.log")


class Daemon:
    """`lope run` of a configuration, with a control socket of its own, as on a machine of its own."""

    def __init__(self, build, config, name):
        self.lope = f"{build}/bin/lope"
        self.log = config.with_name(f"{name}.log")
        self.environment = {**os.environ, "LOPE_SOCKET": str(config.with_name(f"{name}.sock"))}
        with open(self.log, "ab") as log:
            command = ["setpriv", "--pdeathsig", "KILL", self.lope, "run", "--config", config]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log,
                                            start_new_session=True)
        eventually(f"{name} consumes", lambda: self.status().get("state") == "consuming", 60)

    def status(self):
        """Of its one group; nothing when the daemon does not answer."""
        asked = subprocess.run([self.lope, "status", "--json"], env=self.environment, capture_output=True, text=True)
        return json.loads(asked.stdout)["groups"][0] if asked.returncode == 0 else {}

    def node(self, cluster):
        """The index of the node that its group has connected to first."""
        address = re.search(r" connected group=[^(]\S* broker=(\S+)", self.log.read_text(encoding="utf-8"))[1]
        return next(i for i, url in enumerate(cluster.urls) if url.endswith("@" + address))

    def kill(self):
        """As a machine dies: all of it at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
                raise


class Part:
    def __init__(self, build, folder, cluster, name, messages, arguments):
        self.build, self.messages, self.name = build, messages, name
        self.handled_file = folder / f"{name}.handled"
        self.handled_file.touch()
        self.config = folder / f"{name}.yaml"
        self.config.write_text(f"""broker: {{ urls: [{", ".join(cluster.urls)}] }}
handlers_dir: {build}/tests/handlers
groups:
  {name}:
    handler: append_id
    options: {{ file: {self.handled_file}, work_us: 2000 }}  # some are always under way
    declare: {{ type: quorum, durable: true, arguments: {{ {arguments} }} }}
""", encoding="utf-8")

    def daemon(self, name):
        return Daemon(self.build, self.config, f"{self.name}-{name}")

    def publish(self, url):
        return subprocess.Popen([f"{self.build}/bin/lope", "publish", "--broker", url, "--queue", self.name, "--count",
                                 str(self.messages), "--rate", str(kRate), "--message-id", "m", "x"],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def handled(self):
        """The messages' numbers, as they were handled."""
        return [int(line[2:]) for line in self.handled_file.read_text(encoding="utf-8").splitlines()]

    def comes_to(self, share):
        eventually(f"{share:.0%} are handled", lambda: len(self.handled()) >= share * self.messages, 120)

    def all_are_handled(self, publisher):
        said = publisher.communicate(timeout=120)[0]
        assert publisher.returncode == 0, said
        expected = set(range(1, self.messages + 1))
        eventually("each message is handled", lambda: set(self.handled()) == expected, 120)
        print(f"    {self.messages} messages, {len(self.handled()) - self.messages} of them handled twice")


def any_daemon_takes_over(build, folder, cluster, messages):
    part = Part(build, folder, cluster, "shared", messages, "x-quorum-initial-group-size: 3")
    survivor = part.daemon("survivor")
    victim = part.daemon("victim")
    try:
        leader = cluster.leader(part.name)
        publisher = part.publish(cluster.urls[leader - 1])
        part.comes_to(0.2)
        assert survivor.status()["acked"] > 0 and victim.status()["acked"] > 0, "one of them gets nothing"
        victim.kill()
        part.comes_to(0.5)
        broker("kill", cluster.nodes[leader])
        part.all_are_handled(publisher)
        assert cluster.leader(part.name, leader - 1) != leader, "the node that was killed did not lead the queue"
        lost = "connection lost" in survivor.log.read_text(encoding="utf-8")
        assert lost == (survivor.node(cluster) == leader), "a connection is lost with its node, and only then"
    finally:
        survivor.stop()
        victim.stop()
    broker("start", cluster.nodes[leader])


def a_single_active_consumer_keeps_the_order(build, folder, cluster, messages):
    part = Part(build, folder, cluster, "ordered", messages, "x-single-active-consumer: true")
    daemons = [part.daemon("first"), part.daemon("second")]
    try:
        publisher = part.publish(cluster.urls[2])
        part.comes_to(0.3)
        assert daemons[1].status()["delivered"] == 0, "both get messages"
        daemons[0].kill()
        part.all_are_handled(publisher)
        assert daemons[1].status()["delivered"] > 0
    finally:
        for daemon in daemons:
            daemon.stop()
    first = list(dict.fromkeys(part.handled()))
    assert first == sorted(first), "not handled in the order in which they were published"


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    messages = int(sys.argv[2]) if len(sys.argv) > 2 else 600
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lope-cluster-") as folder, Cluster() as cluster:
        print(f"three nodes\n    {time.monotonic() - begun:.1f} s", flush=True)
        for part in (any_daemon_takes_over, a_single_active_consumer_keeps_the_order):
            begun = time.monotonic()
            print(part.__name__.replace("_", " "), flush=True)
            part(build, pathlib.Path(folder), cluster, messages)
            print(f"    {time.monotonic() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
