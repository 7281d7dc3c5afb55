"""Real Slurm on this machine: its daemons, configured for a test and on the loopback interface."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from processes import PATIENCE, kill_tree, wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
SEARCH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=SEARCH)]

CONFIGURATION = """\
ClusterName=dnmf
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
KillWait={kill_wait}
{nodes}
PartitionName=work Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime={grace}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Slurm:
    """Controller and nodes that run, and what can be asked of them."""

    def __init__(self, folder: Path, nodes=2, cpus=4, kill_wait=20, grace=5) -> None:
        self.folder = folder
        self.nodes = [f"n{i}" for i in range(nodes)]
        self.configuration = folder / "slurm.conf"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM")},
            "SLURM_CONF": str(self.configuration),
            "PATH": f"{Path(sys.executable).parent}:{SEARCH}",
        }
        lines = [
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={free_port()} "
            f"CPUs={cpus} RealMemory=8000 State=UNKNOWN"
            for name in self.nodes
        ]
        self.configuration.write_text(
            CONFIGURATION.format(
                controller_port=free_port(),
                folder=folder,
                user=getpass.getuser(),
                kill_wait=kill_wait,
                grace=grace,
                nodes="\n".join(lines),
            )
        )
        (folder / "state").mkdir()
        for name in self.nodes:
            (folder / f"spool-{name}").mkdir()
        self.daemons: list[subprocess.Popen] = []

    def start(self) -> None:
        key, log = self.folder / "munge.key", self.folder / "munged.log"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        where = [f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/munged.pid"]
        files = [f"--key-file={key}", f"--log-file={log}", f"--seed-file={self.folder}/munge.seed"]
        self._start("munged", "--foreground", "--force", *where, *files)
        wait_until((self.folder / "munge.socket").exists, "munged")
        self._start("slurmctld", "-D", "-c")
        for name in self.nodes:
            self._start("slurmd", "-D", "-N", name)
        wait_until(lambda: self.ask("sinfo", "-h", "-o", "%T") == "idle\n", "nodes of Slurm")

    def _start(self, program: str, *words: str) -> None:
        path = shutil.which(program, path=SEARCH)
        with (self.folder / "daemons.log").open("a") as log:
            self.daemons.append(
                subprocess.Popen([path, *words], env=self.env, stdout=log, stderr=log)
            )

    def stop(self) -> None:
        """End the jobs, whose processes are not the daemons' children, then the daemons."""
        try:
            self.empty()
        finally:
            for daemon in reversed(self.daemons):
                kill_tree(daemon.pid)
                daemon.wait(PATIENCE)

    def ask(self, *words) -> str:
        """Run a command of Slurm's and give what it prints."""
        done = subprocess.run(
            list(map(str, words)), env=self.env, capture_output=True, text=True, timeout=PATIENCE
        )
        return done.stdout + done.stderr

    def submit(self, *words, env=None) -> str:
        """Submit a script; give the id of its job."""
        done = subprocess.run(
            ["sbatch", "--parsable", *map(str, words)],
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def empty(self) -> None:
        """Cancel all jobs, and wait until they have ended."""
        self.ask("scancel", "--user", getpass.getuser())
        wait_until(lambda: self.ask("squeue", "-h") == "", "an empty queue")

    def processes_of(self, job: str) -> list[psutil.Process]:
        """Find what a job has started, by its environment."""
        mine = {"SLURM_JOB_ID": job, "SLURM_CONF": str(self.configuration)}.items()
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if mine <= process.environ().items():
                    found.append(process)
        return found

    def wait_for(self, job: str, **facts: str) -> dict[str, str]:
        """Wait until Slurm says this of a job."""
        try:
            return wait_until(lambda: _if_true_of(self.look(job), facts), facts)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.look(job)}") from None

    def look(self, job: str) -> dict[str, str]:
        """Give what Slurm knows about a job."""
        return dict(re.findall(r"(\w[\w/:]*)=(\S*)", self.ask("scontrol", "show", "job", job)))


def _if_true_of(known: dict[str, str], facts: dict[str, str]) -> dict[str, str] | None:
    return known if facts.items() <= known.items() else None


@contextmanager
def running(**options) -> Iterator[Slurm]:
    """Start Slurm in a folder with a short name, which sockets need, and stop it."""
    with tempfile.TemporaryDirectory(prefix="dnmf-slurm-") as folder:
        slurm = Slurm(Path(folder), **options)
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
