package targets

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"cowl/internal/backup/repo/sftpstore"
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
		"sftp:h:/b":                  {SFTP, "/b", ""},
		"sftp:me@h:b/c::vg/lv":       {SFTP, "b/c", "vg/lv"},
		"sftp://me@h:2222/b::latest": {SFTP, "/b", "latest"},
		"sftp://h//b":                {SFTP, "/b", ""},
		"sftp://[::1]:2222/b::3f2a":  {SFTP, "/b", "3f2a"},
		"sftp:me@[fe80::1]:/b::3f2a": {SFTP, "/b", "3f2a"},
		"s3:h/bucket":                {S3, "", ""},
		"s3:http://h:9000/b/p/::3f":  {S3, "", "3f"},
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
	for _, text := range []string{"", "repo:", "repo:::x", "repo:/b::", "::x", "/b::",
		"sftp:", "sftp:h", "sftp:h:", "sftp::/b", "sftp://h", "sftp://:22/b", "sftp://h:0/b", "sftp://h:x/b", "sftp://me:secret@h/b", "sftp:-oX@h:/b", "sftp:-oProxyCommand=x:/b",
		"s3:", "s3:h", "s3:h/", "s3:/bucket", "s3://bucket/prefix", "s3:https:///b", "s3:key:secret@h/b"} {
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
		"sftp:h:/b":                     {"sftp:h:/b", ""},
		"sftp:h:/b::latest:/etc":        {"sftp:h:/b::latest", "/etc"},
		"s3:http://h:9000/b::vg/lv:/x":  {"s3:http://h:9000/b::vg/lv", "/x"},
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

func TestParseParts(t *testing.T) {
	for text, want := range map[string]sftpstore.Options{
		"sftp:h:b":              {Host: "h", Path: "b"},
		"sftp:me@h:/b":          {User: "me", Host: "h", Path: "/b"},
		"sftp://me@h:2222/b":    {User: "me", Host: "h", Port: 2222, Path: "/b"},
		"sftp://[::1]/b":        {Host: "::1", Path: "/b"},
		"sftp://me@[::1]:22/b":  {User: "me", Host: "::1", Port: 22, Path: "/b"},
		"sftp:me@[fe80::1]:b/c": {User: "me", Host: "fe80::1", Path: "b/c"},
	} {
		if got, _, err := Parse(text); err != nil || got.sftp != want || got.String() != text {
			t.Errorf("%s: %+v, %v", text, got.sftp, err)
		}
	}
	for text, want := range map[string]string{
		"s3:h/b": "h false b ", "s3:https://h:1/b/": "h:1 false b ", "s3:http://h:9000/b/p//q/": "h:9000 true b p//q/",
	} {
		got, _, err := Parse(text)
		if o := got.s3; err != nil || fmt.Sprint(o.Endpoint, " ", o.Plain, " ", o.Bucket, " ", o.Prefix) != want {
			t.Errorf("%s: %+v, %v", text, o, err)
		}
	}
}

// Looking at a place that holds no repository leaves nothing there.
func TestOpenNothing(t *testing.T) {
	dir := t.TempDir()
	target, _, err := Parse("repo:" + dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := target.Open(t.Context(), os.Getenv, false); !errs.Is(err, errs.NotFound) || errs.HintOf(err) == "" {
		t.Error(err)
	}
	plain, _, err := Parse(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Open(t.Context(), os.Getenv, false); !errs.Is(err, errs.Usage) {
		t.Error(err)
	}
	if found, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(found) > 0 {
		t.Error(found, err)
	}
	if found, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(found) > 0 {
		t.Error(found, err)
	}
}
