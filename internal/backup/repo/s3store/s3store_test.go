package s3store

import (
	"bytes"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/kopia/kopia/repo/blob"

	"cowl/internal/backup/repo/storetest"
	"cowl/internal/errs"
)

// bucket is a server with a bucket, behind what h makes of it.
func bucket(t *testing.T, h func(http.Handler) http.Handler) Options {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("backups"); err != nil {
		t.Fatal(err)
	}
	handler := gofakes3.New(backend).Server()
	if h != nil {
		handler = h(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return Options{Endpoint: strings.TrimPrefix(server.URL, "http://"), Plain: true, Bucket: "backups", Getenv: env(t, nil)}
}

// env is an environment with a key, and nothing of the user's.
func env(t *testing.T, more map[string]string) func(string) string {
	vars := map[string]string{
		"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
		"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(t.TempDir(), "none"),
	}
	for k, v := range more {
		vars[k] = v
	}
	return func(name string) string { return vars[name] }
}

func TestBlobs(t *testing.T) {
	o := bucket(t, nil)
	for _, prefix := range []string{"", "a/b/"} {
		o.Prefix = prefix
		s, err := New(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if prefix != "" {
			storetest.Run(t, s)
			continue
		}
		// Beside another repository's, below a prefix.
		if err := s.PutBlob(t.Context(), "a/bc", storetest.Text("x"), blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// A blob that is damaged on its way is refused by the server, since it comes
// with a checksum: that is why nothing is read back.
func TestConfirmed(t *testing.T) {
	var damaged bool
	o := bucket(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/pdamaged") && !damaged {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				damaged = true
				body[len(body)/2] ^= 1
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			h.ServeHTTP(w, r)
		})
	})
	s, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat("what was written ", 1000)
	err = s.PutBlob(t.Context(), "pdamaged", storetest.Text(want), blob.PutOptions{})
	if !damaged {
		t.Fatal("nothing was damaged")
	}
	var got storetest.Out
	if readErr := s.GetBlob(t.Context(), "pdamaged", 0, -1, &got); err == nil && (readErr != nil || got.String() != want) {
		t.Errorf("what was damaged on its way was taken: %v", readErr)
	}
	t.Log(err)
}

func TestRefused(t *testing.T) {
	o := bucket(t, nil)
	refused := func(o Options, kind errs.Kind) {
		t.Helper()
		_, err := New(t.Context(), o)
		if err == nil || kind != errs.Other && !errs.Is(err, kind) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
		t.Log(err, errs.HintOf(err))
	}
	missing := o
	missing.Bucket = "nothing"
	refused(missing, errs.NotFound)
	refused(bucket(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	}), errs.Denied)
	gone := o
	gone.Endpoint = "127.0.0.1:1"
	refused(gone, errs.Other)
	for _, vars := range []map[string]string{
		{"AWS_ACCESS_KEY_ID": ""},
		{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
	} {
		none := o
		none.Getenv = env(t, vars)
		refused(none, errs.Usage)
	}
}

// A key comes from the file that Amazon's own tools use, and a server's
// certificate may be of an authority of one's own.
func TestCredentialsFileAndCA(t *testing.T) {
	backend := s3mem.New()
	if err := backend.CreateBucket("backups"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	dir := t.TempDir()
	file, ca := filepath.Join(dir, "credentials"), filepath.Join(dir, "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("[nightly]\naws_access_key_id = key\naws_secret_access_key = secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": file, "AWS_PROFILE": "nightly"}
	o := Options{Endpoint: strings.TrimPrefix(server.URL, "https://"), Bucket: "backups", Getenv: env(t, vars)}
	if _, err := New(t.Context(), o); err == nil {
		t.Error("a certificate that nobody vouches for was taken")
	}
	vars["AWS_CA_BUNDLE"] = ca
	o.Getenv = env(t, vars)
	if _, err := New(t.Context(), o); err != nil {
		t.Error(err)
	}
}
