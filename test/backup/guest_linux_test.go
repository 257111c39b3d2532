package backup

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"cowl/internal/judge"
	"cowl/internal/kerneltest"
)

// guest is a Linux in a virtual machine whose only disk is the volume vg/vm, with
// a file system that it writes to all the time, and a guest agent.
type guest struct {
	*site
	vm     *kerneltest.VM
	socket string // the agent's
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	judge.NeedFile(t, "/dev/fuse")
	judge.Need(t, "e2fsck", "dumpe2fs", "qemu-ga")
	s := newSite(t, 512<<20)
	s.must("lvcreate -L 64M -n vm vg")
	s.must("vgchange -ay vg")
	g := &guest{site: s, socket: s.path("qga")}
	g.vm = kerneltest.Machine{Images: []string{s.path("run/vg/vm")}, Agent: g.socket}.Boot(t)
	g.vm.Install(judge.Find("qemu-ga"))
	g.vm.Sh(`mkfs.ext4 -q /dev/vda; mount /dev/vda /mnt
		qemu-ga -d -m virtio-serial -p /dev/$(basename $(dirname $(grep -l org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name))) -f /run/qga.pid -t /run
		echo 0 > /mnt/n
		(n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); dd if=/dev/urandom of=/mnt/f$((n%50)) bs=4k count=$((n%9+1)) 2>/dev/null; rm -f /mnt/f$(((n+7)%50)); echo $n > /mnt/n.new; mv /mnt/n.new /mnt/n
			[ $((n%10)) != 0 ] || sync; done; echo $n > /tmp/written) >/dev/null 2>&1 &`)
	return g
}

// goesOn waits until the guest has written since.
func (g *guest) goesOn() {
	g.t.Helper()
	g.vm.Sh("n=$(cat /mnt/n); while [ $(cat /mnt/n) -le $((n+10)) ]; do sleep 0.1; done")
}

// status is what the guest's agent says.
func (g *guest) status() string {
	g.t.Helper()
	_, state, _ := strings.Cut(strings.TrimSpace(g.must("guest status "+g.socket)), ": ")
	return state
}

// hooked is a backup of the volume with hooks that freeze the guest.
func (g *guest) hooked(before, options string) *exec.Cmd {
	cmd := g.command("backup vg/vm --to backups " + options)
	program := cmd.Path
	cmd.Args = append(cmd.Args, "--before-snapshot", program+" guest freeze "+g.socket+before,
		"--after-snapshot", program+" guest thaw "+g.socket)
	return cmd
}

// examine says of the only image whether its journal would have to be replayed,
// and has e2fsck judge it, after replaying if need be. It removes the image.
func (g *guest) examine() (unclean bool) {
	g.t.Helper()
	image := g.image("raw")
	head, err := exec.Command(judge.Find("dumpe2fs"), "-h", image).CombinedOutput()
	if err != nil {
		g.t.Fatalf("dumpe2fs: %v\n%s", err, head)
	}
	unclean = strings.Contains(string(head), "needs_recovery")
	if unclean {
		_, _ = exec.Command(judge.Find("e2fsck"), "-fp", image).CombinedOutput()
	}
	if out, err := exec.Command(judge.Find("e2fsck"), "-fn", image).CombinedOutput(); err != nil {
		g.t.Errorf("e2fsck: %v\n%s", err, out)
	}
	for _, name := range g.backups() {
		if err := exec.Command("rm", g.path("backups/"+name)).Run(); err != nil {
			g.t.Error(err)
		}
	}
	return unclean
}

// The disk of a virtual machine in use is backed up as its guest agent holds its
// file systems still: there is nothing to replay, as there is without. It goes on
// whatever becomes of the backup.
func TestGuest(t *testing.T) {
	g := newGuest(t)
	g.goesOn()
	g.must("backup vg/vm --to backups")
	if !g.examine() {
		t.Error("without the agent nothing has to be replayed either: the test shows nothing")
	}

	out, err := g.hooked("", "").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "1 file system(s) frozen") || !strings.Contains(string(out), "1 file system(s) go on") {
		t.Fatalf("backup: %v\n%s", err, out)
	}
	if g.examine() {
		t.Error("the frozen guest's journal has to be replayed")
	}
	g.goesOn()

	// The hook after it finds that somebody else was faster.
	out, err = g.hooked("; "+g.command("").Path+" guest thaw "+g.socket, "").CombinedOutput()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), "went on before") {
		t.Errorf("a guest that was thawed too early: %v\n%s", err, out)
	}
	g.examine()

	// There is no snapshot, and no backup.
	g.must("lvcreate -l 100%FREE -n rest vg")
	if out, err := g.hooked("", "").CombinedOutput(); err == nil || g.status() != "not frozen" {
		t.Errorf("a backup without room: %v, and the guest is %s\n%s", err, g.status(), out)
	}
	g.nothingLeft("rest", "vm")
	g.must("lvremove -y vg/rest")
	g.goesOn()

	// Killed in the middle of it: the hook's parent is cowl.
	killed := g.hooked("; kill -9 $PPID", "")
	if err := killed.Run(); err == nil || killed.ProcessState.Exited() {
		t.Fatalf("the backup was to be killed: %v", killed.ProcessState)
	}
	eventually(t, func() error {
		if state := g.status(); state != "not frozen" {
			return errors.New("the guest is " + state)
		}
		return nil
	})
	g.goesOn()

	g.vm.Sh("touch /tmp/stop; while [ ! -e /tmp/written ]; do sleep 0.1; done; umount /mnt")
	g.vm.Off()
	g.fails("guest freeze "+g.socket, g.socket) // nobody is there
	g.deactivate()
}
