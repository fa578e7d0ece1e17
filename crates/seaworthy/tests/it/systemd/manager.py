"""A service manager as systemd is one, of one service: starts it, listens to it, keeps its descriptors
(sd_notify(3), sd_listen_fds(3)), and starts it again when it ends. What it heard stands in a file."""
import os, socket, sys, time

place, heard, command = sys.argv[1], sys.argv[2], sys.argv[3:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(place)
notify.settimeout(0.02)
kept = []  # (name, descriptor), in the order in which they came


def start():
    child = os.fork()
    if child == 0:
        # Away from where they go, so that none is overwritten before it was moved.
        moved = [os.dup2(fd, 500 + at, inheritable=False) for at, (_, fd) in enumerate(kept)]
        for at, fd in enumerate(moved):
            os.dup2(fd, 3 + at, inheritable=True)
        environment = dict(os.environ, NOTIFY_SOCKET=place, WATCHDOG_USEC="1500000", INVOCATION_ID="0" * 32)
        if kept:
            environment.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(kept)),
                               LISTEN_FDNAMES=":".join(name for name, _ in kept))
        os.execvpe(command[0], command, environment)
    return child


def write(text):
    with open(heard, "a") as file:
        file.write(text + "\n")


main = start()
while True:
    if os.waitpid(main, os.WNOHANG)[0]:
        write("ended")
        main = start()
    try:
        lines, fds, _, _ = socket.recv_fds(notify, 4096, 8)
    except TimeoutError:
        continue
    fields = dict(line.split("=", 1) for line in lines.decode().splitlines())
    name = fields.get("FDNAME")
    if "FDSTORE" in fields:
        kept += [(name, fd) for fd in fds]
        for fd in fds:
            # Received ones are handed on with `exec`, else, besides those that are meant to be.
            os.set_inheritable(fd, False)
    if "FDSTOREREMOVE" in fields:
        for one in [one for one in kept if one[0] == name]:
            os.close(one[1])
            kept.remove(one)
    write(" ".join(lines.decode().splitlines()))
    if name:
        write("kept " + " ".join(sorted(name for name, _ in kept)))
