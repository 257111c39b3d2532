package targets

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"cowl/internal/backup/repo"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/judge"
)

const password = "correct horse"

// Repositories on other hosts: made, written, increased, verified, maintained,
// read, and restored by the stock kopia.

func TestSFTP(t *testing.T) {
	s := judge.StartSSH(t)
	name := fmt.Sprintf("sftp://%s@127.0.0.1:%d%s/repo", s.User, s.Port, t.TempDir())
	target := parsed(t, name)
	// The stock kopia, as it is built here, has no SFTP of its own; it opens the
	// directory, whose layout is the same.
	use(t, target, map[string]string{SSHCommand: s.Command()}, []string{"filesystem", "--path", target.Path})
}

func TestS3(t *testing.T) {
	backend := s3mem.New()
	if err := backend.CreateBucket("backups"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	use(t, parsed(t, "s3:"+server.URL+"/backups/host1"), map[string]string{
		"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
	}, []string{
		"s3", "--bucket", "backups", "--prefix", "host1/", "--endpoint", strings.TrimPrefix(server.URL, "http://"),
		"--access-key", "key", "--secret-access-key", "secret", "--region", "us-east-1", "--disable-tls",
	})
}

func parsed(t *testing.T, name string) Target {
	t.Helper()
	target, _, err := Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// use puts a repository through its life. connect are the arguments by which
// the stock kopia finds it.
func use(t *testing.T, target Target, vars map[string]string, connect []string) {
	ctx, cache := t.Context(), t.TempDir()
	getenv := func(name string) string { return vars[name] }
	place := func(create bool) repo.Store {
		t.Helper()
		st, err := target.Open(ctx, getenv, create)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	open := func(reading bool) *repo.Repo {
		t.Helper()
		r, err := repo.Open(ctx, place(false), password, repo.Options{CacheDir: cache, Reading: reading})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if err := repo.Init(ctx, place(true), password, repo.Options{KDF: repo.PBKDF2}); err != nil {
		t.Fatal(err)
	}
	if err := repo.Init(ctx, place(true), password, repo.Options{KDF: repo.PBKDF2}); !errs.Is(err, errs.Exists) {
		t.Errorf("made twice: %v", err)
	}

	const size = 24 << 20
	dev := mem.New(size)
	data := make([]byte, size/2)
	rand.NewChaCha8([32]byte{1}).Read(data)
	if _, err := dev.WriteAt(data, size/4); err != nil {
		t.Fatal(err)
	}
	r := open(false)
	locked, lock, err := r.Lock(ctx, repo.Shared, "backup", "")
	if err != nil {
		t.Fatal(err)
	}
	first, err := r.Store(locked, repo.Source{Dev: dev}, record(), nil, repo.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	base, _, err := r.Image(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	changed := repo.NewSet(base.Layout().Segments())
	if _, err := dev.WriteAt(data[:100<<10], 1<<20); err != nil {
		t.Fatal(err)
	}
	changed.AddRange(base.Layout(), 1<<20, 100<<10)
	before := r.Written()
	second, err := r.Store(locked, repo.Source{Dev: dev, Base: base, Changed: changed}, record(), nil, repo.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Written() - before; n > 1<<20 {
		t.Errorf("100 KiB of changes took %d bytes", n)
	}
	other := open(false)
	if locks, err := other.Locks(ctx); err != nil || len(locks) != 1 || locks[0].Stale != "" {
		t.Errorf("%+v, %v", locks, err)
	}
	if err := lock.Release(ctx); err != nil {
		t.Error(err)
	}
	if _, err := other.Maintain(ctx); err != nil {
		t.Error(err)
	}
	if err := other.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := r.Close(ctx); err != nil {
		t.Error(err)
	}

	r = open(true)
	if v, err := r.Verify(ctx, repo.VerifyOptions{}); err != nil || !v.Good {
		t.Errorf("%+v, %v", v, err)
	}
	image, _, err := r.Image(ctx, second)
	if err != nil {
		t.Fatal(err)
	}
	want, got := make([]byte, size), make([]byte, size)
	if _, err := dev.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := image.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image is not what was stored: %v", err)
	}
	if err := r.Close(ctx); err != nil {
		t.Error(err)
	}
	if _, err := repo.Open(ctx, place(false), "wrong", repo.Options{}); !errs.Is(err, errs.Denied) {
		t.Errorf("wrong password: %v", err)
	}
	stock(t, connect, second.ID, want)
}

// stock has the stock kopia verify the repository and restore an image.
func stock(t *testing.T, connect []string, id string, want []byte) {
	kopia, home := judge.Kopia(t), t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(kopia, args...)
		cmd.Env = append(os.Environ(), "KOPIA_PASSWORD="+password, "HOME="+home, "KOPIA_CONFIG_PATH="+home+"/repository.config", "KOPIA_CHECK_FOR_UPDATES=false")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("kopia %v: %v\n%s", args, err, out)
		}
	}
	run(append([]string{"repository", "connect"}, append(connect, "--no-persist-credentials", "--disable-file-logging")...)...)
	run("snapshot", "verify", "--verify-files-percent=100")
	to := filepath.Join(t.TempDir(), "out")
	run("snapshot", "restore", id, to)
	got, err := os.ReadFile(filepath.Join(to, "vg-lv.raw"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("kopia restores something else: %v", err)
	}
}

func record() *repo.Record {
	return &repo.Record{Tool: "test", Started: time.Now(), Source: repo.Origin{VG: "vg", LV: "lv", LVUUID: "lv-uuid", VGUUID: "vg-uuid"},
		Snapshot: repo.Snapshot{LV: "s", LVUUID: "snapshot-uuid", Time: time.Now()}, Image: repo.ImageInfo{File: "vg-lv.raw"}}
}
