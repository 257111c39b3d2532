package targets

import (
	"path/filepath"
	"testing"

	"cowl/internal/errs"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]struct {
		kind         Kind
		path, backup string
	}{
		"/backups":                   {Dir, "/backups", ""},
		"backups":                    {Dir, "backups", ""},
		"/backups::vg-lv.raw":        {Dir, "/backups", "vg-lv.raw"},
		"repo:/backups":              {Local, "/backups", ""},
		"repo:backups::3f2a":         {Local, "backups", "3f2a"},
		"repo:/b::vg/lv":             {Local, "/b", "vg/lv"},
		"/srv/repo:old":              {Dir, "/srv/repo:old", ""},
		"/b/vg-lv.20260102T0304.raw": {Dir, "/b/vg-lv.20260102T0304.raw", ""},
	} {
		got, backup, err := Parse(text)
		if err != nil || got.Kind != want.kind || got.Path != want.path || backup != want.backup {
			t.Errorf("%s: %+v, %q, %v", text, got, backup, err)
		}
		if got.IsRepository() != (want.kind != Dir) {
			t.Errorf("%s: repository: %v", text, got.IsRepository())
		}
	}
	for _, text := range []string{"", "repo:", "repo:::x", "repo:/b::", "::x", "/b::"} {
		if got, _, err := Parse(text); !errs.Is(err, errs.Usage) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestSplitPath(t *testing.T) {
	for text, want := range map[string][2]string{
		"vg/lv:/etc":                    {"vg/lv", "/etc"},
		"vg/lv":                         {"vg/lv", ""},
		"vg/lv:/man/Foo::Bar.3:/x":      {"vg/lv", "/man/Foo::Bar.3:/x"},
		"disk.img#1:/":                  {"disk.img#1", "/"},
		"repo:/b":                       {"repo:/b", ""},
		"repo:/b::latest":               {"repo:/b::latest", ""},
		"repo:/b::vg/lv:/etc/a::b":      {"repo:/b::vg/lv", "/etc/a::b"},
		"/backups::vg-lv.raw:/etc":      {"/backups::vg-lv.raw", "/etc"},
		"/backups/vg-lv.raw:/etc/a::/b": {"/backups/vg-lv.raw", "/etc/a::/b"},
		":/etc":                         {":/etc", ""},
	} {
		if name, path := SplitPath(text); name != want[0] || path != want[1] {
			t.Errorf("%s: %q, %q", text, name, path)
		}
	}
}

// One place has one cache, however it is named.
func TestCacheKey(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	a, _, err := Parse("repo:b")
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := Parse("repo:" + filepath.Join(dir, "x", "..", "b"))
	if err != nil {
		t.Fatal(err)
	}
	if a.CacheKey() != b.CacheKey() {
		t.Errorf("%q and %q", a.CacheKey(), b.CacheKey())
	}
}

// Looking at a place that holds no repository leaves nothing there.
func TestOpenNothing(t *testing.T) {
	dir := t.TempDir()
	target, _, err := Parse("repo:" + dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := target.Open(t.Context(), false); !errs.Is(err, errs.NotFound) || errs.HintOf(err) == "" {
		t.Error(err)
	}
	plain, _, err := Parse(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Open(t.Context(), false); !errs.Is(err, errs.Usage) {
		t.Error(err)
	}
	if found, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(found) > 0 {
		t.Error(found, err)
	}
	if found, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(found) > 0 {
		t.Error(found, err)
	}
}
