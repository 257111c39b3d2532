package backup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
)

const twoDisks = `<domain><devices>
<disk type='block'><driver type='raw'/><source dev='/dev/vg-0/a'/><target dev='vda'/></disk>
<disk type='block'><driver type='raw'/><source dev='/dev/mapper/vg--0-b'/><target dev='vdb'/></disk>
</devices></domain>
`

// A description that names an image which does not exist is worse than none.
func TestDomainNeedsAllDisks(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.add("a", mem.New(mib))
	g.add("b", mem.New(mib))
	path := filepath.Join(t.TempDir(), "guest.xml")
	if err := os.WriteFile(path, []byte(twoDisks), 0o600); err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: dir, Format: Qcow2, DomainXML: path}
	g.wrap = func(name string, d block.Device) block.Device {
		return &hooked{d, func(string, int64) error {
			if strings.HasPrefix(name, "b") {
				return errFake
			}
			return nil
		}}
	}
	r, err := RunAll(ctx, []Volumes{{g, []string{"a", "b"}}}, o)
	if err == nil || len(r.Backups) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "*.xml*")); len(found) > 0 {
		t.Errorf("there is %q", found)
	}
	g.wrap = nil
	if r, err = RunAll(ctx, []Volumes{{g, []string{"a", "b"}}}, o); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(r.Backups[0].Domain)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range r.Backups {
		if !strings.Contains(string(text), "<disk type='file'><driver type='qcow2'/><source file='"+b.Image+"'/>") || b.Domain != r.Backups[0].Domain {
			t.Errorf("%s is not in %s", b.Image, text)
		}
	}
	// One volume alone: what is not in it is said.
	one, err := Run(ctx, g, Options{LV: "a", Dir: dir, Format: Raw, DomainXML: path})
	if err != nil || !strings.Contains(strings.Join(one.Notes, "\n"), "disk vdb is /dev/mapper/vg--0-b, which is not in the backup") {
		t.Errorf("%+v, %v", one, err)
	}
}
