//go:build linux

package kernel

import (
	"fmt"
	"strings"

	"cowl/internal/block/blocktest"
)

// files reads the files of a snapshot and of the mounted volume, by name, as an
// archive, and compares them.
func (h *host) files() {
	h.vm.Sh(`lvcreate -qq -y -s -L 8m -p r -n then vg/data
		echo more > /a/added; rm /a/f4; mv /a/f3 /a/renamed
		dd if=/dev/urandom of=/a/f2 bs=4k count=1 seek=5 conv=notrunc 2>/dev/null; sync`)
	ls := h.cowl("ls vg/then:/")
	if !strings.Contains(ls, "f4") || strings.Contains(ls, "added") {
		h.t.Errorf("ls of the snapshot says:\n%s", ls)
	}
	h.vm.Sh(`mkdir /tmp/then; cowl tar vg/then:/ | tar -x -C /tmp/then; cd /tmp/then; md5sum -c /tmp/sums`)

	// 1 is: there are differences.
	diff, status := h.vm.Try("cowl diff --ignore-times vg/then vg/data 2>/tmp/said")
	for _, want := range []string{"+ /added", "- /f4", "M /f2", "R /f3 -> /renamed"} {
		if !strings.Contains(diff, want) {
			h.t.Errorf("diff (exit status %d) does not say %q:\n%s%s", status, want, diff, h.vm.Sh("cat /tmp/said"))
		}
	}
	if status != 1 || strings.Contains(diff, "/f1") {
		h.t.Errorf("diff, with exit status %d, says:\n%s", status, diff)
	}
	h.diffsBlocks("vg/then", "vg/data")
	if blocktest.Long() {
		h.cowl("lvcreate -s -L 8m -p r -n now vg/data")
		h.diffsBlocks("vg/then", "vg/now")
		if out, status := h.vm.Try("cowl diff vg/now vg/now"); status != 0 || out != "" {
			h.t.Errorf("a snapshot differs from itself, exit status %d: %s", status, out)
		}
		h.cowl("lvremove -y vg/now")
	}
	h.vm.Sh(`mv /a/renamed /a/f3; rm /a/added; cp /tmp/then/f* /a; cd /a; md5sum -c /tmp/sums; rm -rf /tmp/then`)
	h.vm.Sh("lvremove -qq -y vg/then")
	// What is read again is what is there now: the kernel writes to its journal past
	// the device's page cache.
	for i := range 2 {
		h.vm.Sh(fmt.Sprintf("for n in $(seq 8); do echo %d > /a/again$n; sync; done", i))
		if again := h.cowl("cat vg/data:/again8 2>/dev/null"); again != fmt.Sprintf("%d\n", i) {
			h.t.Errorf("the file that was written %d times holds %q", i+1, again)
		}
	}
	h.vm.Sh("rm /a/again*")
}

// diffsBlocks compares what diff --blocks says of two volumes with what differs.
func (h *host) diffsBlocks(a, b string) {
	h.t.Helper()
	out, status := h.vm.Try("cowl diff --blocks " + a + " " + b + " 2>/dev/null")
	if status != 1 {
		h.t.Errorf("diff --blocks %s %s: exit status %d\n%s", a, b, status, out)
	}
	one, two := h.vm.Read("/dev/"+a, 0, -1), h.vm.Read("/dev/"+b, 0, -1)
	covered, ranges := 0, 0
	for line := range strings.Lines(out) {
		var start, length int
		if _, err := fmt.Sscan(line, &start, &length); err != nil {
			continue
		}
		if start < covered || string(one[covered:start]) != string(two[covered:start]) {
			h.t.Errorf("between %d and %d %s and %s differ, and diff --blocks does not say so", covered, start, a, b)
		}
		covered = start + length
		ranges++
	}
	if ranges == 0 || string(one[covered:]) != string(two[covered:]) {
		h.t.Errorf("diff --blocks names %d ranges, behind which more differs:\n%s", ranges, out)
	}
}

// tries has lvm2 try changes, by its own rules, and nothing has changed.
func (h *host) tries() {
	h.vm.Sh("lvcreate -qq -y -s -L 8m -n snap vg/data")
	const state = "vgs --noheadings -o vg_seqno vg; dmsetup table"
	before := h.vm.Sh(state)
	commands := []string{"snapshot -t vg/data vg/log-x -L 4m", "lvremove -t -y vg/snap"}
	if blocktest.Long() {
		commands = append(commands, "lvcreate -t -L 4m -n x vg", "lvcreate -s -t -L 4m -n x vg/data", "lvextend -t -L +4m vg/snap",
			"lvchange -t -p r vg/snap", "lvchange -t --addtag x vg/snap", "lvconvert -t --merge vg/snap", "vgextend -t vg /dev/vdd",
			"backup -t vg/data --to /bk")
		h.refused("lvcreate -s -t -L 4m -n x vg/snap", "snapshot")
		h.refused("lvcreate -t -L 1g -n x vg", "insufficient free space")
	}
	for _, args := range commands {
		h.cowl(args)
	}
	h.refused("lvextend -t -L +4m vg/data", "only while inactive") // lvm2's rule, and not the engine's
	if after := h.vm.Sh(state); after != before {
		h.t.Errorf("what was only tried has changed\n%s\nto\n%s", before, after)
	}
	h.wantVolumes("vg", "data log-x snap")
	// What goes with an origin is named, and not missed afterwards.
	h.vm.Sh("lvcreate -qq -y -L 4m -n y vg; lvcreate -qq -y -s -L 4m -n z vg/y")
	if out := h.cowl("lvremove -y vg/y vg/z vg/snap"); strings.Count(out, "successfully removed") != 3 {
		h.t.Errorf("lvremove says:\n%s", out)
	}
	h.wantVolumes("vg", "data log-x")
}

// twoBackends backs up a volume that the kernel runs and one that cowl's engine
// runs, at one instant.
func (h *host) twoBackends() {
	h.vm.Load("fuse", "loop")
	h.vm.Sh(`truncate -s 25165824 /tmp/engine.img
		printf '#!/bin/sh\nCOWL_DEVICES=/dev/vda,/dev/vdb,/tmp/engine.img exec cowl "$@"\n' > /bin/both; chmod +x /bin/both
		both vgcreate engine /tmp/engine.img; both lvcreate -L 8m -n side engine; both vgchange -ay engine
		mkfs.ext4 -q -b 4096 /run/cowl/engine/side; mount -o loop /run/cowl/engine/side /c`)
	rounds := 1
	if blocktest.Long() {
		rounds = 10
	}
	stop := h.wander("/c")
	for range rounds {
		out := h.vm.Sh("both backup vg/data engine/side --to /bk -L 4m")
		for _, want := range []string{"2 of 2 volumes backed up", "one instant", "Frozen"} {
			if !strings.Contains(out, want) {
				h.t.Errorf("backup does not say %q:\n%s", want, out)
			}
		}
		h.sameInstant("-o loop /bk/vg-data.*.raw", "-o loop /bk/engine-side.*.raw")
		h.vm.Sh("rm -f /bk/*")
	}
	stop()
	h.vm.Sh(`umount /c; both vgchange -an engine; rm -f /tmp/engine.img`)
	h.wantVolumes("vg", "data log-x")
}
