"""A cluster of RabbitMQ nodes for tests, and daemons at it. The nodes are named as those of ./dev are, which removes them
when a test was killed."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile

from container import eventually

kSource = pathlib.Path(__file__).resolve().parents[2]
kScript = str(kSource / "tests/support/broker.sh")


def broker(*arguments, environment=None):
    done = subprocess.run([kScript, *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, **(environment or {})})
    assert done.returncode == 0, f"broker.sh {arguments}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class Cluster:
    """Three nodes on 127.0.0.1; `own_addresses`: on 127.0.1.1 to 127.0.1.3, as on machines of their own."""

    def __init__(self, own_addresses=False, conf=""):
        owner = os.environ.get("LOPE_TEST_RUNNER", os.getpid())  # as seen from outside
        self.nodes = [f"testcluster{number}-{owner}" for number in (1, 2, 3)]
        self.addresses = [f"127.0.1.{number}" if own_addresses else "127.0.0.1" for number in (1, 2, 3)]
        self.environments = [{"LOPE_TEST_NODE_CONF": conf} for _ in self.nodes]
        if own_addresses:
            for number, environment in enumerate(self.environments, 1):
                environment["LOPE_TEST_NODE_HOST"] = f"node{number}={self.addresses[number - 1]}"
        self.urls = []

    def __enter__(self):
        try:
            self.urls = [broker("start", self.nodes[0], environment=self.environments[0])]
            joining = [subprocess.Popen([kScript, "join", node, self.nodes[0]], stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, **environment})
                       for node, environment in zip(self.nodes[1:], self.environments[1:])]
            for each in joining:
                url = each.communicate()[0].strip()
                assert each.returncode == 0, "a node does not join"
                self.urls.append(url)
            broker("ctl", self.nodes[0], "await_online_nodes", "3")
        except BaseException:
            self.__exit__()
            raise
        return self

    def port(self, index):
        return int(self.urls[index].rpartition(":")[2])

    def serves(self, index):
        """Does the node take connections?"""
        try:
            with socket.create_connection((self.addresses[index], self.port(index)), 1):
                return True
        except OSError:
            return False

    def leader(self, queue, asked=0):
        """The index of the node that leads a queue, as one of them says."""
        def leader():
            listed = broker("ctl", self.nodes[asked], "list_queues", "--quiet", "--no-table-headers", "name", "leader")
            # A queue without one has nothing there.
            name = dict(line.partition("\t")[::2] for line in listed.splitlines())[queue]
            return next((node for node in self.nodes if f"lope-{node}-" in name), None)
        return self.nodes.index(eventually(f"{queue} has a leader", leader, 60))

    def is_whole(self):
        """Does each node see all of them?"""
        return all(broker("ctl", node, "eval", "length(rabbit_mnesia:cluster_nodes(running)).") == str(len(self.nodes))
                   for node in self.nodes)

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
        eventually(f"{name} consumes", lambda: self.consumes(), 60)

    def groups(self):
        """What it says of its groups; nothing when it does not answer."""
        asked = subprocess.run([self.lope, "status", "--json"], env=self.environment, capture_output=True, text=True)
        return json.loads(asked.stdout)["groups"] if asked.returncode == 0 else []

    def status(self):
        """Of its first group; nothing when the daemon does not answer."""
        return next(iter(self.groups()), {})

    def consumes(self):
        groups = self.groups()
        return groups and all(group["state"] == "consuming" for group in groups)

    def node(self, cluster, group=0, connection="broker"):
        """The index of the node that a group is connected to, as it says; nothing when it is not."""
        address = self.groups()[group][connection]
        return next((i for i, url in enumerate(cluster.urls) if url.endswith("@" + address)), None) if address else None

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


def with_hosts_of_nodes():
    """In a mount namespace: the names node1 to node3 are the nodes' own addresses."""
    with tempfile.NamedTemporaryFile("w", prefix="lope-hosts-") as hosts:
        hosts.write(f"127.0.0.1 localhost {socket.gethostname()}\n")
        hosts.writelines(f"127.0.1.{number} node{number}\n" for number in (1, 2, 3))
        hosts.flush()
        subprocess.run(["mount", "--bind", hosts.name, "/etc/hosts"], check=True)
