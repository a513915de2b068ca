#!/usr/bin/env python3
"""Two daemons with the same configuration on a cluster of three RabbitMQ nodes, of which one and the other is killed.

  cluster_test.py BUILD [MESSAGES]: so many (600) in each of two parts, at 300 a second. Starts its own nodes.
"""
import pathlib
import subprocess
import sys
import tempfile
import time

from cluster import Cluster, Daemon, broker
from container import eventually

kRate = 300


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
        connected_to = survivor.node(cluster)
        publisher = part.publish(cluster.urls[leader - 1])
        part.comes_to(0.2)
        assert survivor.status()["acked"] > 0 and victim.status()["acked"] > 0, "one of them gets nothing"
        victim.kill()
        part.comes_to(0.5)
        broker("kill", cluster.nodes[leader])
        part.all_are_handled(publisher)
        assert cluster.leader(part.name, leader - 1) != leader, "the node that was killed did not lead the queue"
        lost = "connection lost" in survivor.log.read_text(encoding="utf-8")
        assert lost == (connected_to == leader), "a connection is lost with its node, and only then"
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
