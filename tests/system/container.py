"""systemd as PID 1 in a container: an overlay of this machine's root, whose changes are in memory and go with it."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

kSkip = 77  # what ctest takes for "skipped"
kBootDeadline = 60


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(kSkip)


def eventually(what, look, seconds=30):
    """What `look` returns when that is true; fails with `what` and its last answer after so long."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s, found {found!r}")
        time.sleep(0.02)  # between two looks


def in_own_namespaces(*more, programs=("systemd-nspawn", "nsenter")):
    """Runs this script again where what it mounts and starts ends with it, however it ends. `more`: for unshare."""
    if os.geteuid() != 0:
        skip("expected root, for namespaces of its own")
    for program in ("unshare", *programs):
        if shutil.which(program) is None:
            skip(f"no {program}: ./dev setup installs it")
    unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", *more]
    if os.environ.get("LOPE_OWN_NAMESPACES") != "1":
        probe = subprocess.run([*unshare, "true"], capture_output=True, text=True)
        if probe.returncode != 0:
            skip(f"no namespaces here: {probe.stderr.strip()}")
        os.environ["LOPE_OWN_NAMESPACES"] = "1"
        os.environ["LOPE_TEST_RUNNER"] = str(os.getpid())
        os.execvp("unshare", [*unshare, sys.executable, *sys.argv])


class Container:
    """Its own files, processes and systemd; the network is the machine's, so a broker on loopback is in reach."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="lope-system-")
        self.root = self.folder + "/root"
        self.nspawn = None
        self.init = None

    def __enter__(self):
        try:
            self._mount()
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _mount(self):
        memory = self.folder + "/memory"
        for path in (self.root, memory):
            os.mkdir(path)
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", memory],
                               capture_output=True, text=True)
        if mount.returncode == 0:
            os.mkdir(memory + "/upper")
            os.mkdir(memory + "/work")
            layers = f"lowerdir=/,upperdir={memory}/upper,workdir={memory}/work"
            mount = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, self.root],
                                   capture_output=True, text=True)
        if mount.returncode != 0:
            skip(f"cannot mount here: {mount.stderr.strip()}")
        # Neither what this machine starts at boot, nor its word that packages may start nothing.
        for wants in ("multi-user", "sockets", "timers"):
            shutil.rmtree(f"{self.root}/etc/systemd/system/{wants}.target.wants", ignore_errors=True)
        policy = self.root + "/usr/sbin/policy-rc.d"
        if os.path.exists(policy):
            os.unlink(policy)

    def _boot(self):
        with open(self.folder + "/console.log", "wb") as console:
            self.nspawn = subprocess.Popen(
                ["systemd-nspawn", "-D", self.root, "--boot", "--register=no", "--keep-unit",
                 "-M", f"lope-{os.getpid()}"],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console)

        def booted():
            if self.nspawn.poll() is not None:
                with open(self.folder + "/console.log", encoding="utf-8", errors="replace") as console:
                    skip(f"systemd-nspawn does not work here: {console.read().strip()}")
            children = f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children"
            with open(children, encoding="ascii") as file:
                pids = file.read().split()
            if not pids:
                return False
            self.init = pids[0]
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            return state in ("running", "degraded")

        eventually("systemd is up", booted, kBootDeadline)

    def __exit__(self, *_):
        if self.nspawn is not None and self.nspawn.poll() is None:
            self.run("systemctl", "poweroff", check=False)
            try:
                self.nspawn.wait(15)
            except subprocess.TimeoutExpired:
                self.nspawn.kill()
                self.nspawn.wait()
        for path in (self.root, self.folder + "/memory"):
            if os.path.ismount(path):
                subprocess.run(["umount", "-l", path], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _inside(self, command):
        return ["nsenter", "-t", self.init, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", *command]

    def run(self, *command, check=True):
        done = subprocess.run(self._inside(command), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def start(self, *command):
        return subprocess.Popen(self._inside(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def write(self, path, text, mode=0o644):
        """Over an existing file: its owner and mode stay."""
        inside = self.root + path
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        new = not os.path.exists(inside)
        with open(inside, "w", encoding="utf-8") as file:
            file.write(text)
        if new:
            os.chmod(inside, mode)

    def bring(self, source, folder):
        """Copies a file from outside, where the container does not see all there is: /tmp, other file systems."""
        os.makedirs(self.root + folder, exist_ok=True)
        shutil.copy(source, self.root + folder)

    def read(self, path):
        with open(self.root + path, encoding="utf-8") as file:
            return file.read()

    def read_inside(self, path):
        """As read(), also of what is mounted there."""
        return self.run("cat", path).stdout

    def unit(self, name, *properties):
        """These properties of a unit; the one, when one is asked for."""
        shown = self.run("systemctl", "show", name, "-p", ",".join(properties)).stdout
        found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        return found[properties[0]] if len(properties) == 1 else [found[each] for each in properties]

    def journal(self, unit, *more):
        """The entries of a unit so far."""
        lines = self.run("journalctl", "-u", unit, "-o", "json", "--no-pager", *more).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def processes(self, group):
        """The pids, as inside, of a process group."""
        return self.run("pgrep", "-g", str(group), check=False).stdout.split()
