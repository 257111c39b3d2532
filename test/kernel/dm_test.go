//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"cowl/internal/kerneltest"
)

// dm is the kernel's side: device-mapper tables as LVM loads them, origin
// "base" over "real", snapshots "s0", "s1", ... The COWs of a stack that is
// merged are behind dm-delay, so that a merge can be caught in the middle.
type dm struct {
	t       *testing.T
	vm      *kerneltest.VM
	disks   map[string]string // by image
	stack   *stack
	snaps   map[int]bool
	merging int // -1: none
	delay   int // of a write to a COW that is merged, ms
}

// newDM boots a kernel with the stacks' images as disks.
func newDM(t *testing.T, stacks ...*stack) *dm {
	t.Helper()
	k := &dm{t: t, disks: map[string]string{}, delay: 10}
	var images []string
	for _, s := range stacks {
		for _, image := range s.images() {
			k.disks[image] = "/dev/vd" + string(rune('a'+len(images)))
			images = append(images, image)
		}
	}
	k.vm = kerneltest.Boot(t, images...)
	return k
}

func (k *dm) name() string { return "the kernel" }

func (k *dm) open(s *stack, snapshots ...int) {
	k.t.Helper()
	k.begin(s, snapshots...)
	k.vm.Sh(fmt.Sprintf(`dmsetup create base --table "%s"`, k.originTable()))
}

// begin makes everything but the origin itself.
func (k *dm) begin(s *stack, snapshots ...int) {
	k.t.Helper()
	k.stack, k.snaps, k.merging = s, map[int]bool{}, -1
	k.vm.Sh(fmt.Sprintf(`n=$(blockdev --getsz %[1]s); dmsetup create real --table "0 $n linear %[1]s 0"`, k.disks[s.origin]))
	for _, i := range snapshots {
		k.vm.Sh(k.createScript(i))
	}
}

func (k *dm) createScript(i int) string {
	k.snaps[i] = true
	return fmt.Sprintf(`dmsetup create s%d --table "0 $(blockdev --getsz /dev/mapper/real) snapshot /dev/mapper/real %s P %d"
`, i, k.disks[k.stack.cows[i]], sectors(k.stack.chunk))
}

func (k *dm) originTable() string {
	return "0 $(blockdev --getsz /dev/mapper/real) snapshot-origin /dev/mapper/real"
}

func (k *dm) shut() {
	k.t.Helper()
	k.takeDown()
	k.release()
}

func (k *dm) takeDown() {
	k.vm.Sh("dmsetup remove base")
	for i := range k.snaps {
		k.vm.Sh(fmt.Sprintf("dmsetup remove s%d", i))
	}
	k.vm.Sh("dmsetup remove real; ! test -e /dev/mapper/slow || dmsetup remove slow")
}

func (k *dm) release() {
	k.t.Helper()
	for _, image := range k.stack.images() {
		k.vm.Release(k.disks[image])
	}
}

func (k *dm) create(i int) {
	k.t.Helper()
	k.vm.Sh(fmt.Sprintf("dd if=/dev/zero of=%s bs=4096 count=1 conv=fsync 2>/dev/null\n", k.disks[k.stack.cows[i]]) +
		"dmsetup suspend base\n" + k.createScript(i) + "dmsetup resume base")
}

func (k *dm) remove(i int) {
	k.t.Helper()
	delete(k.snaps, i)
	k.vm.Sh(fmt.Sprintf("dmsetup suspend base; dmsetup remove s%d; dmsetup resume base", i))
}

func (k *dm) dev(i int) string {
	if i < 0 {
		return "/dev/mapper/base"
	}
	return fmt.Sprintf("/dev/mapper/s%d", i)
}

func (k *dm) write(ws []write) error {
	var calls []kerneltest.Write
	for _, w := range ws {
		calls = append(calls, kerneltest.Write{Path: k.dev(w.dev), Off: w.off, Data: w.data})
	}
	return k.vm.TryWrite(calls...)
}

// discard is not supported by the kernel's origins.
func (k *dm) discard(off, length int64) {
	k.t.Helper()
	k.vm.Try(fmt.Sprintf("blkdiscard -o %d -l %d /dev/mapper/base", off, length))
}

func (k *dm) zero(dev int, off, length int64) error {
	return k.vm.TryWrite(kerneltest.Write{Path: k.dev(dev), Off: off, Data: make([]byte, length)})
}

func (k *dm) read(dev int) ([]byte, error) { return k.vm.TryRead(k.dev(dev), 0, -1) }

func (k *dm) status(i int) string {
	k.t.Helper()
	f := strings.Fields(k.vm.Sh(fmt.Sprintf("dmsetup status s%d", i)))
	return strings.Join(f[3:], " ") // after "0 8192 snapshot"
}

func (k *dm) merge(i int) {
	k.t.Helper()
	delete(k.snaps, i)
	k.vm.Sh(fmt.Sprintf("dmsetup suspend base; dmsetup remove s%d", i))
	k.slowly(i)
	k.vm.Sh(fmt.Sprintf(`dmsetup reload base --table "%s"; dmsetup resume base`, k.mergeTable()))
}

func (k *dm) openMerging(s *stack, merging int, snapshots ...int) {
	k.t.Helper()
	k.begin(s, snapshots...)
	k.slowly(merging)
	k.vm.Sh(fmt.Sprintf(`dmsetup create base --table "%s"`, k.mergeTable()))
}

// slowly puts a COW behind a delay of each write.
func (k *dm) slowly(i int) {
	k.merging = i
	k.vm.Sh(fmt.Sprintf(`dmsetup create slow --table "0 $(blockdev --getsz %[1]s) delay %[1]s 0 0 %[1]s 0 %[2]d"`,
		k.disks[k.stack.cows[i]], k.delay))
}

func (k *dm) mergeTable() string {
	return fmt.Sprintf("0 $(blockdev --getsz /dev/mapper/real) snapshot-merge /dev/mapper/real /dev/mapper/slow P %d",
		sectors(k.stack.chunk))
}

// mergeState returns the sectors of exceptions and metadata.
func (k *dm) mergeState() (allocated, metadata int) {
	k.t.Helper()
	text := k.vm.Sh("dmsetup status base")
	f := strings.Fields(text)
	if len(f) != 5 {
		k.t.Fatalf("the kernel: status of a merge is %q", text)
	}
	used, _, _ := strings.Cut(f[3], "/")
	allocated, err := strconv.Atoi(used)
	metadata, err2 := strconv.Atoi(f[4])
	if err := errors.Join(err, err2); err != nil {
		k.t.Fatalf("the kernel: status of a merge is %q", text)
	}
	return allocated, metadata
}

func (k *dm) mergeSome() {
	k.t.Helper()
	start, meta := k.mergeState()
	for {
		allocated, metadata := k.mergeState()
		if allocated == metadata {
			k.t.Fatalf("the kernel: the merge was over before it could be stopped (it began at %d, %d)", start, meta)
		}
		if allocated < start*4/5 {
			break
		}
	}
	k.vm.Cut()
}

func (k *dm) mergePause() {
	k.t.Helper()
	for start, metadata := k.mergeState(); start > metadata; {
		if allocated, _ := k.mergeState(); allocated < start {
			break
		}
	}
	k.shut()
}

func (k *dm) mergeAll() {
	k.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; {
		if allocated, metadata := k.mergeState(); allocated == metadata {
			break
		}
		if time.Now().After(deadline) {
			k.t.Fatal("the kernel: the merge does not end")
		}
		k.vm.Sh("sleep 0.2")
	}
	k.vm.Sh(fmt.Sprintf(`dmsetup suspend base; dmsetup reload base --table "%s"; dmsetup resume base; dmsetup remove slow`, k.originTable()))
	k.merging = -1
}
