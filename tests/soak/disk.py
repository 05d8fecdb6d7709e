"""Disks that can be cut off: filesystems in files in memory, each mounted by way of a loop device.

A power cut is the filesystem's own shutdown without a flush: what was not on the disk is gone, and the journal is
replayed at the next mount. Needs root; touches nothing but its own files.
"""
import fcntl
import os
import shutil
import struct
import subprocess
import time

SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32): EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
WITHOUT_FLUSH = 2
SMALLEST = {"ext4": 24, "xfs": 320}  # MiB; mkfs.xfs refuses less than 300
PLACE = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
# Writes of the kernel's own threads, as a loop device's are, belong to the root group.
THROTTLE = "/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device"


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Disk:
    """One filesystem, mounted at `path`; removed with `remove`."""

    def __init__(self, path, filesystem="ext4", megabytes=1024, inodes=None):
        self.path = path
        self.image = f"{PLACE}/postrider-soak-{os.getpid()}-{os.path.basename(path)}-{time.monotonic_ns()}"
        os.makedirs(path, exist_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(max(megabytes, SMALLEST[filesystem]) << 20)
        few = ["-N", str(inodes)] if inodes else []
        try:
            run(f"mkfs.{filesystem}", *(["-qF", "-m", "0", *few] if filesystem == "ext4" else ["-qf"]), self.image)
            self.mount()
        except OSError:
            os.unlink(self.image)
            raise

    def mount(self):
        run("mount", "-o", "loop", self.image, self.path)

    def unmount(self):
        # Processes that were killed may still be on their way out, and with them their files.
        for _ in range(300):
            try:
                run("umount", self.path)
                break
            except OSError as error:
                last = error
                time.sleep(0.05)
        else:
            raise last
        # So may be their mount namespaces, in which the filesystem would go on as it is.
        for _ in range(300):
            if not run("losetup", "-j", self.image):
                return
            time.sleep(0.05)
        raise OSError(f"{self.image} is still mounted somewhere")

    def cut(self):
        """The power fails."""
        folder = os.open(self.path, os.O_RDONLY)
        fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
        os.close(folder)

    def come_back(self):
        """The power is there again."""
        self.unmount()
        self.mount()

    def sync(self):
        run("sync", "-f", self.path)

    def read_only(self, is_so):
        # Refused as long as a file is open for writing.
        for _ in range(200):
            try:
                return run("mount", "-o", "remount,ro" if is_so else "remount,rw", self.path)
            except OSError as error:
                last = error
                time.sleep(0.02)
        raise last

    def slow_down(self, writes):
        """So many writes a second, 0 for as many as it can. `False` where this kernel can't."""
        device = run("findmnt", "-no", "MAJ:MIN", self.path).strip()
        try:
            with open(THROTTLE, "w") as throttle:
                throttle.write(f"{device} {writes}")
        except OSError:
            return False
        return True

    def remove(self):
        self.unmount()
        os.unlink(self.image)
        shutil.rmtree(self.path, ignore_errors=True)


def why_not(filesystem="ext4"):
    """Why there are no such disks here; `None` if there are."""
    if os.geteuid():
        return "only root may"
    if not os.path.exists("/dev/loop-control"):
        return "there are no loop devices"
    if not shutil.which(f"mkfs.{filesystem}", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        return f"mkfs.{filesystem} is not installed"
    try:
        Disk(f"/tmp/postrider-soak-{os.getpid()}-trial", filesystem).remove()
    except OSError as error:
        return str(error)
    return None
