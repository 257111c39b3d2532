package freeze

import (
	"slices"
	"testing"
)

const mountinfo = `22 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw,errors=remount-ro
30 22 0:26 / /proc rw - proc proc rw
40 22 252:2 / /srv/a\040b rw,relatime shared:5 master:7 - xfs /dev/mapper/vg-srv rw
41 40 7:0 / /srv/a\040b/image rw - ext4 /dev/loop0 rw
42 22 252:2 /sub /bind rw - xfs /dev/mapper/vg-srv rw
nonsense
43 22 252 / /x rw - ext4 /dev/x rw
44 22 0:50 / /pool rw - btrfs /dev/mapper/vg-pool rw,subvol=/
`

func TestParseMounts(t *testing.T) {
	got := parseMounts([]byte(mountinfo))
	var points []string
	for _, m := range got {
		points = append(points, m.Point)
	}
	if want := []string{"/", "/proc", "/srv/a b", "/srv/a b/image", "/bind", "/pool"}; !slices.Equal(points, want) {
		t.Fatalf("mount points %q, want %q", points, want)
	}
	want := Mount{Point: "/srv/a b", Type: "xfs", Source: "/dev/mapper/vg-srv", Device: Device{252, 2}, Depth: 2}
	if got[2] != want {
		t.Errorf("%+v, want %+v", got[2], want)
	}
}

// A file system that lies in a file of another one cannot write back its data
// any more when that one is frozen before it.
func TestOrder(t *testing.T) {
	var points []string
	for _, m := range Order(parseMounts([]byte(mountinfo))) {
		points = append(points, m.Point)
	}
	if want := []string{"/pool", "/bind", "/srv/a b/image", "/proc", "/"}; !slices.Equal(points, want) {
		t.Errorf("frozen in the order %q, want %q", points, want)
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`a\040b\134c`: `a b\c`, `\0`: `\0`, `\999`: `\999`, "": "", `x\012`: "x\n"} {
		if got := unescape(in); got != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
	}
}

// Mount points and sources are other people's text.
func FuzzMounts(f *testing.F) {
	f.Add([]byte(mountinfo))
	f.Fuzz(func(t *testing.T, text []byte) {
		if got := Order(parseMounts(text)); len(got) > len(text) {
			t.Fatalf("%d mounts in %d bytes", len(got), len(text))
		}
	})
}
