package manager

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/judge"
	"cowl/internal/lvmtest"
	"cowl/internal/volume"
)

// crowded returns a group on an image in which files may grow, active, with a
// volume data of 12 MiB of ones, a snapshot s of a mebibyte, and no free extent.
func (r *rig) crowded(disk, config string) Group {
	r.t.Helper()
	if _, err := r.host().CreateGroup(ctx, volume.GroupSpec{Name: "vg", ExtentSize: 2048}, []string{disk}, PVCreate{}); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.host().configPath(), []byte("cowl/grow_pv_files=1\n"+config), 0o600); err != nil {
		r.t.Fatal(err)
	}
	g := r.open("vg")
	r.lv(g, "data", 12)
	st, err := g.Status(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	r.lv(g, "filler", st.Group.Free()-1)
	if _, err := g.Activate(ctx); err != nil {
		r.t.Fatal(err)
	}
	r.overwrite(g, 1)
	if _, err := g.CreateSnapshots(ctx, []volume.SnapshotSpec{{Origin: "data", Name: "s", Size: volume.Size{Extents: 1}}}); err != nil {
		r.t.Fatal(err)
	}
	return g
}

// overwrite writes a byte all over data, and returns why that failed.
func (r *rig) overwrite(g Group, b byte) error {
	r.t.Helper()
	d, err := g.Open(ctx, "data", false)
	if err != nil {
		r.t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.WriteAt(bytes.Repeat([]byte{b}, 12*mib), 0); err != nil {
		return err
	}
	return d.Flush()
}

func (r *rig) wantSnapshot(g Group) {
	r.t.Helper()
	s, err := g.Open(ctx, "s", true)
	if err != nil {
		r.t.Fatal(err)
	}
	defer s.Close()
	got := make([]byte, 12*mib)
	if _, err := s.ReadAt(got, 0); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{1}, len(got))) {
		r.t.Errorf("the snapshot has changed, %v", err)
	}
}

// A PV that has grown is lvm2's as well as any other.
func TestLVMAcceptsGrownPV(t *testing.T) {
	l := lvmtest.New(t)
	_, images := l.Create(32 * mib)
	l.Detach()
	r := newRig(t)
	g := r.crowded(images[0], "")
	if err := r.overwrite(g, 2); err != nil {
		t.Fatal(err)
	}
	r.wantSnapshot(g)
	r.close(g)
	info, err := os.Stat(images[0])
	if err != nil || info.Size() <= 32*mib {
		t.Fatalf("the file has %d bytes, %v", info.Size(), err)
	}
	devs := l.Attach(images...)
	for _, args := range []string{"vgck vg", "pvs", "vgs", "lvs -a", "pvresize " + devs[0]} {
		out, talk, err := l.Try(strings.Fields(args)...)
		if err != nil || strings.Contains(talk, "WARNING") {
			t.Errorf("lvm %s: %v\n%s%s", args, err, out, talk)
		}
	}
	t.Log(l.Run("pvs", "-o", "pv_name,pv_size,dev_size,pv_pe_count,pv_free", "--units", "s"))
	l.Detach()
	g = r.open("vg") // lvm2 may have written what it thinks of the size
	r.wantSnapshot(g)
	r.close(g)
}

// A full file system below the file is as a full group: the policy decides, and
// the file is as it was.
func TestFullFileSystemBelow(t *testing.T) {
	judge.NeedRoot(t)
	for _, policy := range []string{"invalidate", "readonly"} {
		t.Run(policy, func(t *testing.T) {
			r := newRig(t)
			small := filepath.Join(r.dir, "small")
			if err := os.Mkdir(small, 0o700); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=34M", "none", small).CombinedOutput(); err != nil {
				judge.Absent(t, "cannot mount a tmpfs: %v: %s", err, out)
			}
			defer func() {
				if out, err := exec.Command("umount", small).CombinedOutput(); err != nil {
					t.Errorf("umount: %v: %s", err, out)
				}
			}()
			disk := r.image("small/disk", 32*mib)
			if out, err := exec.Command("fallocate", "-l", "32M", disk).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			g := r.crowded(disk, `cowl/snapshot_on_full="`+policy+`"`)
			defer g.Close()
			err := r.overwrite(g, 2)
			st, serr := g.Status(ctx)
			if serr != nil {
				t.Fatal(serr)
			}
			cow := st.LVs["s"].Cow
			if !strings.Contains(cow.Short, "no space left") {
				t.Errorf("it is not said why: %+v", cow)
			}
			switch policy {
			case "invalidate":
				if err != nil || !cow.Invalid {
					t.Errorf("%v, %+v", err, cow)
				}
			case "readonly":
				if !errs.Is(err, errs.NoSpace) || cow.Invalid {
					t.Errorf("%v, %+v", err, cow)
				}
				r.wantSnapshot(g)
			}
			if info, err := os.Stat(disk); err != nil || info.Size()-int64(st.PVs[0].Size) != 0 {
				t.Errorf("the file has %d bytes, the PV %d, %v", info.Size(), st.PVs[0].Size, err)
			}
		})
	}
}
