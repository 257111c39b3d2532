//go:build linux

package kernel

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/judge"
	"cowl/internal/kerneltest"
)

// host is a machine whose kernel runs a group, vg, with cowl in it as root: the
// program drives the machine's own LVM.
type host struct {
	t      *testing.T
	vm     *kerneltest.VM
	images []string
}

// newHost boots a machine with two PVs in vg, and another in a group that is
// named small, of 6 extents of 4 MiB. The last disk is not in use: see slow.
func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t}
	for i, size := range []int64{100 << 20, 60 << 20, 25 << 20, 24 << 20} {
		path := filepath.Join(t.TempDir(), fmt.Sprintf("disk%d.img", i))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		h.images = append(h.images, path)
	}
	h.boot(t)
	h.vm.Sh(`vgcreate -qq vg /dev/vda /dev/vdb; vgcreate -qq small /dev/vdc`)
	return h
}

// boot starts the machine, on disks that may have been in use before. The machine
// belongs to the test t.
func (h *host) boot(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if f, err := elf.Open(self); err != nil || f.Section(".interp") != nil {
		judge.Absent(t, "the test binary is not linked statically (build it with CGO_ENABLED=0): %v", err)
	}
	h.vm = kerneltest.Boot(t, h.images...)
	h.vm.Put(self, "/bin/cowl.test")
	h.vm.Sh(`cat > /bin/cowl <<-'E'
		#!/bin/sh
		COWL_TEST_IS_PROGRAM=1 COWL_RUN_DIR=/run/cowl exec /bin/cowl.test "$@"
	E
		chmod +x /bin/cowl
		printf 'devices { use_devicesfile = 0 }\nactivation { udev_sync = 0 udev_rules = 0 monitoring = 0 polling_interval = 1 }\nglobal { use_lvmpolld = 0 thin_check_executable = "" cache_check_executable = "" }\nbackup { backup = 0 archive = 0 }\n' > /etc/lvm/lvm.conf
		mkdir -p /a /b /c /s /bk`)
}

// volume makes a volume with a file system, mounted on a directory.
func (h *host) volume(name, size, dir string) {
	h.t.Helper()
	h.vm.Sh(fmt.Sprintf(`lvcreate -qq -y -n %[2]s -L %[3]s %[1]s; mkfs.ext4 -q -b 4096 /dev/%[1]s/%[2]s; mount /dev/%[1]s/%[2]s %[4]s`,
		path0(name), path1(name), size, dir))
}

func path0(name string) string { group, _, _ := strings.Cut(name, "/"); return group }
func path1(name string) string { _, lv, _ := strings.Cut(name, "/"); return lv }

// cowl runs the program, which must succeed.
func (h *host) cowl(args string) string {
	h.t.Helper()
	out, status := h.vm.Try("cowl " + args)
	if status != 0 {
		h.t.Fatalf("cowl %s: exit status %d:\n%s", args, status, out)
	}
	return out
}

// refused runs the program, which must fail and say something.
func (h *host) refused(args, pattern string) {
	h.t.Helper()
	out, status := h.vm.Try("cowl " + args)
	if status == 0 || !regexp.MustCompile(pattern).MatchString(out) {
		h.t.Errorf("cowl %s: exit status %d, want a failure that says %q:\n%s", args, status, pattern, out)
	}
}

// volumes returns lvm2's view of a group.
func (h *host) volumes(group string) string {
	h.t.Helper()
	return strings.Join(strings.Fields(h.vm.Sh("lvs --noheadings -o lv_name "+group)), " ")
}

func (h *host) wantVolumes(group, want string) {
	h.t.Helper()
	if got := h.volumes(group); got != want {
		h.t.Errorf("volumes of %s: %q, want %q", group, got, want)
	}
}

// background runs a loop's body in the machine until the returned function is
// called, which waits for its end.
func (h *host) background(body string) (stop func()) {
	h.t.Helper()
	h.vm.Sh("rm -f /tmp/stop /tmp/stopped\n(while [ ! -e /tmp/stop ]; do\n" + body + "\ndone; touch /tmp/stopped) >/dev/null 2>&1 &")
	return func() {
		h.t.Helper()
		h.vm.Sh("touch /tmp/stop; while [ ! -e /tmp/stopped ]; do sleep 0.1; done")
	}
}

// number reads a file with a number in it.
func (h *host) number(path string) int {
	h.t.Helper()
	text := h.vm.Sh("cat " + path)
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		h.t.Fatalf("%s holds %q", path, text)
	}
	return n
}

// The kernel's own LVM is what most machines have. cowl must do there what it
// does on its own groups, and a backup of a machine that is in use must be whole
// or fail: see docs/host-lvm.md.
func TestHostLVM(t *testing.T) {
	h := newHost(t)
	h.volume("vg/data", "12m", "/a")
	h.volume("vg/log-x", "8m", "/b")
	h.vm.Sh(`for i in 1 2 3 4; do dd if=/dev/urandom of=/a/f$i bs=256k count=1 2>/dev/null; done; (cd /a; md5sum f*) > /tmp/sums`)

	t.Run("backup while it is written", func(t *testing.T) { h.t = t; h.backsUp() })
	t.Run("increments", func(t *testing.T) { h.t = t; h.increments() })
	t.Run("changed ranges", func(t *testing.T) { h.t = t; h.changes() })
	t.Run("files", func(t *testing.T) { h.t = t; h.files() })
	t.Run("tried only", func(t *testing.T) { h.t = t; h.tries() })
	t.Run("one instant", func(t *testing.T) { h.t = t; h.instant("vg/log-x", "/b", "-L 4m", 1) })
	t.Run("two groups", func(t *testing.T) { h.t = t; h.twoGroups() })
	t.Run("two backends", func(t *testing.T) { h.t = t; h.twoBackends() })
	t.Run("killed", func(t *testing.T) { h.t = t; h.killed() })
	t.Run("extended in time", func(t *testing.T) { h.t = t; h.extends() })
	t.Run("overflow", func(t *testing.T) { h.t = t; h.overflows() })
	t.Run("rollback", func(t *testing.T) { h.t = t; h.rollsBack() })
	t.Run("thin pool", func(t *testing.T) { h.t = t; h.thin() })
	t.Run("other types", func(t *testing.T) { h.t = t; h.otherTypes() })
	t.Run("two masters", func(t *testing.T) { h.t = t; h.oneMaster() })
	t.Run("rollback and power cut", func(t *testing.T) { h.t = t; h.powerCut() })
}

// backsUp backs up a mounted file system that is being written to, restores it
// beside itself, and lets e2fsck and its files judge.
func (h *host) backsUp() {
	stop := h.background("dd if=/dev/urandom of=/a/busy bs=64k count=8 conv=fsync; mv /a/busy /a/moved")
	out := h.cowl("backup vg/data --to /bk -L 8m")
	stop()
	if !strings.Contains(out, "verified") {
		h.t.Errorf("backup says:\n%s", out)
	}
	h.wantVolumes("vg", "data log-x")
	h.cowl("restore /bk/vg-data.*.raw vg/back --create")
	h.vm.Sh(`e2fsck -fn /dev/vg/back; mount -o ro /dev/vg/back /s; cd /s; md5sum -c /tmp/sums; cd /; umount /s`)
	h.cowl("lvremove -y vg/back")
	h.vm.Sh("rm -rf /bk; mkdir /bk")
}

// increments backs up into a repository, where the second backup reads only what
// the kernel says has changed, and compares what is restored, byte by byte. A
// snapshot that is not the one that the first backup left is not believed.
func (h *host) increments() {
	h.vm.Sh(`mkdir /rp; cat > /bin/repo <<-'E'
		#!/bin/sh
		COWL_PASSWORD=x exec cowl "$@"
	E
		chmod +x /bin/repo; repo repo init repo:/rp --kdf pbkdf2`)
	backup := func(want string) {
		h.t.Helper()
		if out := h.vm.Sh("repo backup vg/data --to repo:/rp -L 8m"); !strings.Contains(out, want) {
			h.t.Errorf("backup does not say %q:\n%s", want, out)
		}
	}
	backup("verified")
	h.vm.Sh(`dd if=/dev/urandom of=/a/f3 bs=64k count=3 seek=1 conv=notrunc,fsync 2>/dev/null; echo more > /a/more; umount /a`)
	backup("What has not changed since")
	h.vm.Sh(`repo restore repo:/rp::latest vg/back --create; cmp /dev/vg/data /dev/vg/back; mount /dev/vg/data /a; (cd /a; md5sum f1 f2 f3 f4) > /tmp/sums`)
	h.cowl("lvremove -y vg/back")
	// Another snapshot in the place of the one that is tracked.
	left := strings.TrimSpace(strings.NewReplacer("log-x", "", "data.backup", "data.backup", "data ", "").Replace(h.volumes("vg")))
	h.vm.Sh(fmt.Sprintf(`tags=$(lvs --noheadings -o lv_tags vg/%[1]s | tr -d ' ' | sed 's/^/--addtag /; s/,/ --addtag /g')
		lvremove -qq -y vg/%[1]s; echo unseen > /a/unseen; sync
		lvcreate -qq -y -s -p r -L 8m -n %[1]s $tags vg/data`, left))
	backup("the tracking snapshot of backup")
	h.vm.Sh("for lv in $(lvs --noheadings -o lv_name vg | grep backup); do lvremove -qq -y vg/$lv; done; rm -rf /rp")
	h.wantVolumes("vg", "data log-x")
}

// changes asks what was written since a snapshot, while the kernel writes the
// store that it is read from.
func (h *host) changes() {
	h.cowl("lvcreate -s -L 8m -n before vg/data -p r")
	h.vm.Sh(`dd if=/dev/urandom of=/a/moved bs=4k seek=3 count=5 conv=notrunc,fsync 2>/dev/null`)
	h.vm.Sh("umount /a") // which ends the writing
	out := h.cowl("map vg/data --since before")
	origin, snapshot := h.vm.Read("/dev/vg/data", 0, -1), h.vm.Read("/dev/vg/before", 0, -1)
	same := make([]bool, len(origin)/4096)
	covered := 0
	for line := range strings.Lines(out) {
		var start, length int
		var kind string
		if _, err := fmt.Sscan(line, &start, &length, &kind); err != nil || length <= 0 || start != covered || start%4096 != 0 {
			h.t.Fatalf("map says %q behind %d: %v", line, covered, err)
		}
		covered += length
		for c := start / 4096; kind == "same" && c < covered/4096; c++ {
			same[c] = true
		}
	}
	if covered != len(origin) {
		h.t.Fatalf("the map is of %d bytes, the volume has %d", covered, len(origin))
	}
	changed, differ := 0, 0
	for c := range same {
		is := string(origin[c*4096:][:4096]) == string(snapshot[c*4096:][:4096])
		if !is {
			differ++
		}
		if !same[c] {
			changed++
		}
		if same[c] && !is {
			h.t.Errorf("chunk %d differs and is said to be the same", c)
		}
	}
	if differ < 5 || changed > differ+40 {
		h.t.Errorf("%d chunks differ, %d are said to have changed", differ, changed)
	}
	h.cowl("lvremove -y vg/before")
	h.vm.Sh("mount /dev/vg/data /a")
}

// wander writes to two volumes alternately, vg/data and the one that is mounted on
// a directory, and moves files to and fro, until the returned function is called.
// At any instant the counters are equal or the first is ahead by one; the file that
// is copied before it is removed is somewhere, and the one that is removed before it
// is written is not twice. Snapshots that were taken one after the other, seconds
// apart, show none of that.
func (h *host) wander(dir string) (stop func()) {
	h.vm.Sh(fmt.Sprintf(`cat > /tmp/move <<-'E'
			n=$(($(cat /tmp/n)+1)); echo $n > /tmp/n
			echo $n > /a/n.new; mv /a/n.new /a/n
			echo $n > %[1]s/n.new; mv %[1]s/n.new %[1]s/n
			if [ -e /a/wanderer ]; then from=/a to=%[1]s; else from=%[1]s to=/a; fi
			cp $from/wanderer $to/w; mv $to/w $to/wanderer; rm $from/wanderer
			mv $from/single /tmp/single 2>/dev/null || mv $to/single /tmp/single; mv /tmp/single $to/single
		E
		echo payload > /a/wanderer; echo single > /a/single; echo 0 > /a/n; echo 0 > %[1]s/n; echo 0 > /tmp/n`, dir))
	end := h.background(". /tmp/move")
	return func() {
		end()
		h.vm.Sh("rm -f /a/wanderer /a/single /a/n " + dir + "/wanderer " + dir + "/single")
	}
}

// instant takes snapshots of vg/data and another volume while files wander.
func (h *host) instant(other, dir, size string, rounds int) {
	stop := h.wander(dir)
	names := []string{"data.now", path1(other) + ".now"}
	for range rounds {
		out := h.cowl("snapshot vg/data " + other + " -n '{lv}.now' " + size)
		h.t.Logf("cowl snapshot: %s", strings.TrimSpace(out))
		h.sameInstant("/dev/vg/"+names[0], "/dev/"+path0(other)+"/"+names[1])
		h.cowl("lvremove -y vg/" + names[0] + " " + path0(other) + "/" + names[1])
	}
	stop()
}

// sameInstant looks at two devices or images of what wanders.
func (h *host) sameInstant(first, second string) {
	h.vm.Sh("mkdir -p /s/a /s/b; mount -o ro " + first + " /s/a; mount -o ro " + second + " /s/b")
	a, b := h.number("/s/a/n"), h.number("/s/b/n")
	if a == 0 || a != b && a != b+1 {
		h.t.Errorf("the counters show %d and %d, which they never were at one instant", a, b)
	}
	_, inA := h.vm.Try("grep -q payload /s/a/wanderer")
	_, inB := h.vm.Try("grep -q payload /s/b/wanderer")
	if inA != 0 && inB != 0 {
		h.t.Error("the file that is copied before it is removed is in neither volume")
	}
	if _, status := h.vm.Try("[ -e /s/a/single -a -e /s/b/single ]"); status == 0 {
		h.t.Error("the file that is removed before it is written is in both volumes")
	}
	h.vm.Sh("umount /s/a /s/b")
}

// twoGroups is instant over two groups, and a backup of both.
func (h *host) twoGroups() {
	h.volume("small/side", "8m", "/c")
	rounds := 1
	if blocktest.Long() {
		rounds = 20
	}
	h.instant("small/side", "/c", "-L 4m", rounds)
	out := h.cowl("backup vg/data small/side --to /bk -L 4m")
	if !strings.Contains(out, "2 of 2 volumes backed up") || !strings.Contains(out, "one instant") {
		h.t.Errorf("backup of two groups says:\n%s", out)
	}
	// A group that cannot take its snapshot leaves none in the other.
	h.vm.Sh("lvcreate -qq -y -l 1 -n side.two small")
	h.refused("snapshot vg/data small/side -n '{lv}.two' -L 4m", "side.two.*already exists")
	h.vm.Sh(`lvremove -qq -y small/side.two
		[ "$(cat /sys/block/dm-*/dm/suspended | sort -u)" = 0 ]; umount /c; rm -rf /bk/*`)
	h.wantVolumes("vg", "data log-x")
	h.wantVolumes("small", "side")
	h.cowl("lvremove -y small/side")
}

// killed kills cowl where it would hurt: while it holds volumes still, and while
// it backs up.
func (h *host) killed() {
	h.vm.Sh(`cat > /tmp/kill <<-'E'
			cowl snapshot vg/data vg/log-x -n '{lv}.lost' -L 4m >/dev/null 2>&1 &
			pid=$!
			while [ "$(cat /sys/block/dm-*/dm/suspended | sort -u | tail -1)" = 0 ]; do [ -d /proc/$pid ] || exit 3; done
			kill -9 $pid
		E
		sh /tmp/kill
		echo writes > /a/alive; echo writes > /b/alive; sync`)
	// lvm2 may be at work yet.
	h.vm.Sh(`for i in 1 2 3 4 5 6 7 8 9; do pidof lvm >/dev/null || break; sleep 1; done
		[ "$(cat /sys/block/dm-*/dm/suspended | sort -u)" = 0 ]
		for lv in $(lvs --noheadings -o lv_name -S 'lv_tags=~cowl.instant' vg 2>/dev/null | grep lost); do lvremove -qq -y vg/$lv; done`)
	h.wantVolumes("vg", "data log-x")

	h.vm.Sh(`cowl backup vg/data --to /bk -L 8m >/dev/null 2>&1 &
		pid=$!
		until lvs --noheadings -o lv_name vg | grep -q backup; do :; done
		kill -9 $pid; wait || true`)
	left := strings.Fields(strings.ReplaceAll(h.volumes("vg"), "log-x", ""))
	if len(left) != 2 {
		h.t.Fatalf("the killed backup left %q", left)
	}
	if out := h.cowl("backup vg/data --to /bk -L 8m --test"); !strings.Contains(out, left[1]) || !strings.Contains(out, "killed") {
		h.t.Errorf("the next backup does not name what was left:\n%s", out)
	}
	h.vm.Sh("lvcreate -qq -y -s -L 4m -n others vg/data")
	if out := h.cowl("cleanup vg"); !strings.Contains(out, left[1]) {
		h.t.Errorf("cleanup does not name what was left:\n%s", out)
	}
	h.wantVolumes("vg", "data log-x others") // which is none of ours
	h.vm.Sh("lvremove -qq -y vg/others")
	h.vm.Sh("rm -rf /bk; mkdir /bk")
}

// extends writes more during a backup than its snapshots have room for: they are
// extended from when they are taken, before either is read. The writer waits when
// a store is nearly full, so that only a store that is never extended overflows.
// cowl.conf says how.
func (h *host) extends() {
	h.vm.Sh(`cat > /tmp/fill <<-'E'
		for i in $(seq 18); do
			dd if=/dev/urandom of=/a/fill bs=256k count=1 seek=$i conv=notrunc,fsync 2>/dev/null || exit
			for wait in $(seq 300); do
				set -- $(dmsetup status $(dmsetup ls | awk '/^vg-data.backup/ && $1 !~ /-cow$/ {print $1}'))
				used=${4%/*}; total=${4#*/}
				[ $((used*10)) -lt $((total*9)) ] && break
				sleep 0.1
			done
		done
		echo "$4 $COWL_STAGE" > /tmp/filled
	E
		printf 'activation {\n snapshot_autoextend_threshold = 60\n snapshot_autoextend_percent = 50\n}\ncowl {\n snapshot_on_full = "hold"\n}\n' > /etc/lvm/cowl.conf`)
	out := h.cowl("backup vg/log-x vg/data --to /bk -L 4m --after-snapshot 'sh /tmp/fill'")
	var used, total int
	if filled := h.vm.Sh("cat /tmp/filled"); !strings.Contains(filled, "after-snapshot") {
		h.t.Errorf("the writer says %q", filled)
	} else if _, err := fmt.Sscanf(filled, "%d/%d", &used, &total); err != nil || used < 18*256<<10>>9 || total < used {
		h.t.Errorf("4.5 MiB were to be written, the store's status is %q", filled)
	}
	if !strings.Contains(out, `"hold" is for groups that cowl runs`) {
		h.t.Errorf("a policy that the kernel has not is not told of:\n%s", out)
	}
	h.wantVolumes("vg", "data log-x")
	h.vm.Sh("cd /bk; sha256sum -c *.sha256; rm -rf /bk/* /a/fill /etc/lvm/cowl.conf")
}

// overflows backs up with too little room where the group has no more: the backup
// fails and leaves nothing.
func (h *host) overflows() {
	h.volume("small/full", "16m", "/s")
	h.vm.Sh(`dd if=/dev/urandom of=/s/f bs=1M count=8 2>/dev/null; sync`)
	stop := h.background("dd if=/dev/urandom of=/s/f bs=64k count=100 conv=notrunc,fsync")
	h.refused("backup small/full --to /bk -L 4m", "snapshot small/full.backup.* (overflowed|lost)")
	stop()
	h.vm.Sh("umount /s")
	h.wantVolumes("small", "full")
	if left := h.vm.Sh("ls -A /bk"); left != "" {
		h.t.Errorf("the failed backup left files: %s", left)
	}
}

// rollsBack merges a snapshot of a mounted volume, which has to wait, and says so.
func (h *host) rollsBack() {
	h.cowl("lvcreate -s -L 8m -n old vg/data")
	h.vm.Sh("rm /a/f2; dd if=/dev/urandom of=/a/f1 bs=64k count=2 conv=notrunc,fsync 2>/dev/null")
	h.refused("rollback vg/old", `Snapshot vg/old not merged`)
	out := h.cowl("rollback -y vg/old")
	for _, want := range []string{"M /f1\n", "+ /f2\n", "copied back", "next activation", "mounted on /a"} {
		if !strings.Contains(out, want) {
			h.t.Errorf("rollback does not say %q:\n%s", want, out)
		}
	}
	h.t.Log(out)
	// Stuck: who has it open?
	h.vm.Sh("umount /a; sleep 10000 < /dev/vg/data > /dev/null 2>&1 & echo $! > /tmp/holder")
	h.refused("lvconvert --merge vg/old", `already merging[^~]*open in process [0-9]+ \(`)
	h.refused("lvchange -an vg/data", `in use[^~]*open in process [0-9]+ \(`)
	h.vm.Sh("kill $(cat /tmp/holder); while [ -e /proc/$(cat /tmp/holder)/fd/0 ]; do :; done")
	h.cowl("lvchange -an vg/data")
	h.cowl("lvchange -ay vg/data")
	h.vm.Sh(`for i in 1 2 3 4 5 6 7 8 9 10; do lvs --noheadings -a -o lv_name vg | grep -q old || break; sleep 1; done
		mount /dev/vg/data /a; cd /a; md5sum -c /tmp/sums`)
	h.wantVolumes("vg", "data log-x")
}

// thin backs up a thin volume, whose snapshot is one in its pool; and one instant
// has a thin volume in it, which lvm2 must suspend itself: held by cowl, its pool's
// metadata would be damaged.
func (h *host) thin() {
	h.vm.Load("dm-thin-pool")
	h.vm.Sh(`lvcreate -qq -y --type thin-pool -L 40m -n pool vg; lvcreate -qq -y -V 24m --thinpool pool -n thin vg
		mkfs.ext4 -q -b 4096 /dev/vg/thin; mount /dev/vg/thin /c
		for i in 1 2 3; do dd if=/dev/urandom of=/c/f$i bs=256k count=1 2>/dev/null; done; (cd /c; md5sum f*) > /tmp/thinsums`)
	stop := h.background("dd if=/dev/urandom of=/c/busy bs=64k count=8 conv=fsync; mv /c/busy /c/moved")
	out := h.cowl("backup vg/thin --to /bk")
	stop()
	if !strings.Contains(out, "verified") || strings.Contains(out, "% full") {
		h.t.Errorf("backup says:\n%s", out)
	}
	h.wantVolumes("vg", "data log-x pool thin")
	h.cowl("restore /bk/vg-thin.*.raw vg/back --create")
	h.vm.Sh(`e2fsck -fn /dev/vg/back; mount -o ro /dev/vg/back /s; cd /s; md5sum -c /tmp/thinsums; cd /; umount /s; rm -rf /bk/*`)
	// By lvm2's rules; and the pool, of which a quarter is in use, needs no warning.
	if out := h.cowl("lvcreate -s -t -n tried vg/thin"); !strings.Contains(out, `"tried" created`) || strings.Contains(out, "WARNING") {
		h.t.Errorf("lvcreate -s --test of a thin volume says:\n%s", out)
	}
	h.cowl("lvremove -y vg/back")
	h.refused("backup vg/pool --to /bk", "vg/pool is a thin-pool[^~]*vg/thin")
	h.refused("backup vg/pool_tdata --to /bk", "internal to another")

	if blocktest.Long() {
		h.instant("vg/thin", "/c", "", 5)
		// With a size its snapshot is as any other's.
		if out := h.cowl("backup vg/thin --to /bk -L 8m"); !strings.Contains(out, "% full") {
			h.t.Errorf("backup with a store says:\n%s", out)
		}
		h.vm.Sh("rm -rf /bk/*")
	}
	h.vm.Sh("lvcreate -qq -y -V 8m --thinpool pool -n more vg") // the pool is well
	h.refused("snapshot vg/thin vg/more", "cannot show one instant[^~]*one after the other")
	h.vm.Sh("umount /c; lvcreate -qq -s -n mine vg/thin")
	h.wantVolumes("vg", "data log-x mine more pool thin")
	h.refused("map vg/thin --since mine", "in a thin pool")
	h.refused("lvconvert --merge vg/mine", "lvm2 does")
	h.refused("rollback --yes vg/mine", "lvm2 does")
	h.vm.Sh("lvremove -qq -y vg/pool")
}

// otherTypes backs up volumes of types that the engine does not run, by themselves
// and at one instant with others.
func (h *host) otherTypes() {
	if !blocktest.Long() {
		h.t.Skip("only with COWL_LONG=1")
	}
	h.vm.Load("dm-mirror", "dm-raid", "raid1", "dm-cache", "dm-cache-smq")
	for _, kind := range []struct{ name, make string }{
		{"mirror", "lvcreate -qq -y --type mirror --mirrorlog core -m 1 -n x -L 12m vg"},
		{"raid1", "lvcreate -qq -y --type raid1 -m 1 -n x -L 12m vg"},
		{"striped", "lvcreate -qq -y -i 2 -n x -L 16m vg"},
		{"cache", "lvcreate -qq -y -n x -L 12m vg; lvcreate -qq -y --type cache-pool -L 8m -n fast vg; lvconvert -qq -y --type cache --cachepool fast vg/x"},
	} {
		h.vm.Sh(kind.make + `; mkfs.ext4 -q -b 4096 /dev/vg/x; mount /dev/vg/x /c
			dd if=/dev/urandom of=/c/f bs=256k count=4 2>/dev/null; md5sum /c/f | sed 's|/c|/s|' > /tmp/xsum`)
		h.cowl("backup vg/x --to /bk -L 4m")
		h.cowl("restore /bk/vg-x.*.raw vg/back --create")
		h.vm.Sh("e2fsck -fn /dev/vg/back; mount -o ro /dev/vg/back /s; md5sum -c /tmp/xsum; umount /s; rm -rf /bk/*")
		h.cowl("lvremove -y vg/back")
		h.instant("vg/x", "/c", "-L 4m", 2)
		h.vm.Sh("umount /c; lvremove -qq -y vg/x")
		h.t.Logf("%s: done", kind.name)
	}
	h.wantVolumes("vg", "data log-x")
}

// slow gives the last disk the name /dev/mapper/slow, or another pace to what has
// it: a write takes so many milliseconds. Its first MiB is left out, so that the
// PV on it is not seen twice.
func (h *host) slow(milliseconds int) {
	h.t.Helper()
	const disk = "/dev/vdd 2048"
	table := fmt.Sprintf("0 $(($(cat /sys/block/vdd/size)-2048)) delay %s 0 %s %d", disk, disk, milliseconds)
	h.vm.Sh(`if [ -e /dev/mapper/slow ]; then
			dmsetup load slow --table "` + table + `"; dmsetup suspend --noflush slow; dmsetup resume slow
		else dmsetup create slow --table "` + table + `"; fi`)
}

// merging returns how many sectors of a merging snapshot's store are in use, and
// how many of them are for its metadata; 0 where nothing merges.
func (h *host) merging(device string) (used, metadata int) {
	h.t.Helper()
	status := h.vm.Sh("dmsetup status " + device)
	if _, numbers, ok := strings.Cut(status, " snapshot-merge "); ok {
		if _, err := fmt.Sscanf(numbers, "%d/%d %d", &used, new(int), &metadata); err != nil {
			h.t.Fatalf("the status of %s is %q: %v", device, status, err)
		}
	}
	return used, metadata
}

// powerCut pulls the plug in the middle of a rollback. What is activated after
// that, as any boot does, shows the snapshot's content at once, and the merge goes
// on until nothing of it is left.
func (h *host) powerCut() {
	h.slow(0)
	h.vm.Sh(`vgcreate -qq cut /dev/mapper/slow; lvcreate -qq -y -n data -L 8m cut
		dd if=/dev/urandom of=/dev/cut/data bs=1M count=8 2>/dev/null; sync`)
	h.cowl("lvcreate -s -L 4m -n before cut/data")
	want := h.vm.Read("/dev/cut/before", 0, -1)
	// Each chunk by itself: neighbours would be merged at once.
	var scattered []kerneltest.Write
	for off := int64(0); off < 1<<20; off += 8 << 10 {
		scattered = append(scattered, kerneltest.Write{Path: "/dev/cut/data", Off: off, Data: []byte(strings.Repeat("cut!", 1024))})
	}
	h.vm.Write(scattered...)
	const start = 128 * 8 // sectors
	h.slow(100)           // so that the merge takes half a minute, however busy the machine is
	h.cowl("lvconvert --merge -b cut/before")
	used, metadata := h.merging("cut-data")
	for used > metadata+start*15/16 {
		used, metadata = h.merging("cut-data")
	}
	h.t.Logf("the plug is pulled with %d of %d sectors left", used-metadata, start)
	h.vm.Cut()
	if used <= metadata {
		h.t.Fatal("the merge was over before the plug was pulled")
	}

	h.boot(h.t)
	h.slow(300)
	h.vm.Sh("vgchange -qq -ay cut")
	if got := h.vm.Read("/dev/cut/data", 0, -1); string(got) != string(want) {
		h.t.Error("after the power cut the volume does not show what the snapshot had")
	}
	after, metadata := h.merging("cut-data")
	h.t.Logf("after the boot %d are left", after-metadata)
	if after <= metadata || after > used+16 {
		h.t.Errorf("after the boot %d sectors of the store are in use, %d of them for metadata; before it %d were", after, metadata, used)
	}
	if out := h.cowl("lvs -a cut"); !strings.Contains(out, "[before]") {
		h.t.Errorf("cowl lvs does not show the merge:\n%s", out)
	}
	h.refused("lvconvert --merge cut/before", "already merging[^~]*under way")
	h.slow(0)
	h.vm.Sh("for i in $(seq 100); do lvs --noheadings -a -o lv_name cut | grep -q before || break; sleep 0.2; done")
	h.wantVolumes("cut", "data")
	if got := h.vm.Read("/dev/cut/data", 0, -1); string(got) != string(want) {
		h.t.Error("after the merge the volume does not have what the snapshot had")
	}
}

// oneMaster: the engine stays away from what the kernel runs, and lvm2 from what
// the engine runs.
func (h *host) oneMaster() {
	h.refused("--backend cowl lvcreate -n x -L 4m vg", "the kernel has volumes of volume group vg active")
	h.refused("serve vg", "the kernel has volumes of volume group vg active")
	h.vm.Sh("umount /a /b")
	h.cowl("vgchange -an vg")
	h.cowl("vgchange -ay vg") // by the engine: nothing is active in the kernel
	h.refused("--backend host lvcreate -n x -L 4m vg", "run by a daemon of cowl")
	h.cowl("vgchange -an vg")
	h.cowl("--backend host vgchange -ay vg")
	h.vm.Sh("mount /dev/vg/data /a; umount /a")
}
