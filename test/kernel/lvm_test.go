//go:build linux

package kernel

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"cowl/internal/kerneltest"
)

// lvm is lvm2 on a kernel of its own.
type lvm struct {
	t     *testing.T
	vm    *kerneltest.VM
	disks map[string]string // by image
	used  []string          // the disks of the present group
}

func newLVM(t *testing.T, images ...string) *lvm {
	t.Helper()
	k := &lvm{t: t, disks: map[string]string{}, vm: kerneltest.Boot(t, images...)}
	for i, image := range images {
		k.disks[image] = "/dev/vd" + string(rune('a'+i))
	}
	return k
}

func (k *lvm) name() string { return "lvm2" }

func (k *lvm) start(images []string) {
	k.t.Helper()
	k.used = nil
	var accept []string
	for _, image := range images {
		k.used = append(k.used, k.disks[image])
		accept = append(accept, fmt.Sprintf(`"a|^%s$|"`, k.disks[image]))
	}
	k.vm.Sh(`cat > /etc/lvm/lvm.conf <<-E
		devices { use_devicesfile = 0 hints = "none" global_filter = [ ` + strings.Join(accept, ", ") + `, "r|.*|" ] }
		activation { udev_sync = 0 udev_rules = 0 monitoring = 0 polling_interval = 1 }
		backup { backup = 0 archive = 0 }
	E`)
}

func (k *lvm) stop() {
	k.t.Helper()
	k.vm.Release(k.used...)
}

func (k *lvm) die() { k.vm.Cut() }

func (k *lvm) run(command string) (string, int) {
	k.t.Helper()
	stdout, status := k.vm.Try("lvm " + toPaths(command, k.used) + " 2>/tmp/stderr")
	if status != 0 {
		k.t.Logf("lvm2: %s: %s", command, k.vm.Sh("cat /tmp/stderr"))
	}
	return fromPaths(stdout, k.used), status
}

func (k *lvm) dev(lv string) string { return "/dev/" + vg + "/" + lv }

func (k *lvm) whole(lv string) ([]byte, error) { return k.vm.TryRead(k.dev(lv), 0, -1) }

func (k *lvm) write(ws []lvWrite) error {
	var calls []kerneltest.Write
	for _, w := range ws {
		calls = append(calls, kerneltest.Write{Path: k.dev(w.lv), Off: w.off, Data: w.data})
	}
	return k.vm.TryWrite(calls...)
}

func (k *lvm) merging(origin string) (int, bool) {
	k.t.Helper()
	text := k.vm.Sh("dmsetup status " + strings.ReplaceAll(vg, "-", "--") + "-" + strings.ReplaceAll(origin, "-", "--"))
	f := strings.Fields(text)
	if len(f) != 5 || f[2] != "snapshot-merge" {
		return 0, false
	}
	used, _, _ := strings.Cut(f[3], "/")
	allocated, err := strconv.Atoi(used)
	metadata, err2 := strconv.Atoi(f[4])
	if err != nil || err2 != nil {
		k.t.Fatalf("lvm2: status of a merge is %q", text)
	}
	return allocated - metadata, true
}
