package backup

import (
	"slices"
	"testing"
)

func TestFstabLines(t *testing.T) {
	is := func(path string) bool {
		return slices.Contains([]string{"/dev/vg/a b", "/dev/mapper/vg-a", "/dev/disk/by-uuid/1234-ABCD", "/dev/disk/by-label/www"}, path)
	}
	got := fstabLines([]byte(`# /dev/mapper/vg-a /old ext4 defaults 0 1
/dev/mapper/vg-a   /srv/with\040space	ext4  noatime,nofail 0 2
/dev/vg/a\040b none swap sw 0 0
UUID=1234-ABCD /boot ext4 defaults 0 2
LABEL="www" /www xfs defaults 0 2
UUID=other / ext4 defaults 0 1
/dev/mapper/vg-ab /no ext4 defaults 0 1
/dev/mapper/vg-a /short
`), is)
	want := []string{`/dev/mapper/vg-a /srv/with\040space ext4 noatime,nofail 0 2`, `/dev/vg/a\040b none swap sw 0 0`,
		"UUID=1234-ABCD /boot ext4 defaults 0 2", `LABEL="www" /www xfs defaults 0 2`}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	got = mountedLines([]byte(`25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/mapper/other rw
30 25 7:3 / /mnt/x\040y rw,noatime shared:9 - xfs /dev/mapper/vg-a rw,attr2
31 25 7:3 /sub /bind rw - xfs /dev/mapper/vg-a rw
broken
`), is, "/dev/vg/a")
	if want := []string{`/dev/vg/a /mnt/x\040y xfs rw,noatime 0 2`}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
