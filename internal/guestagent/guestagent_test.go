package guestagent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cowl/internal/errs"
)

// fake is an agent whose answers are set. It serves one client at a time, as
// qemu's socket does.
func fake(t *testing.T, before string, answer func(command string) string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qga")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, before)
			in := bufio.NewReader(conn)
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					break
				}
				if i := strings.LastIndexByte(line, 0xff); i >= 0 {
					line = line[i+1:]
				}
				var r struct {
					Execute   string
					Arguments struct{ ID int64 }
				}
				if err := json.Unmarshal([]byte(line), &r); err != nil {
					break
				}
				if r.Execute == "guest-sync-delimited" {
					fmt.Fprintf(conn, "\xff{\"return\": %d}\n", r.Arguments.ID)
				} else if text := answer(r.Execute); text == "" {
					break
				} else {
					fmt.Fprintln(conn, text)
				}
			}
			conn.Close()
		}
	}()
	return path
}

func dial(t *testing.T, path string) *Agent {
	t.Helper()
	a, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// What an earlier client left unread is not taken for an answer: "3" would be
// how many were thawed.
func TestStaleAnswers(t *testing.T) {
	status := "thawed"
	path := fake(t, `{"return": 3}`+"\n\xff{\"return\": 77}\n\xffnonsense\n", func(command string) string {
		switch command {
		case "guest-fsfreeze-freeze":
			status = "frozen"
			return `{"return": 2}`
		case "guest-fsfreeze-thaw":
			status = "thawed"
			return `{"return": 1}`
		}
		return `{"return": "` + status + `"}`
	})
	a := dial(t, path)
	if n, err := a.Freeze(t.Context()); n != 2 || err != nil {
		t.Errorf("Freeze: %d, %v", n, err)
	}
	if frozen, err := a.Frozen(t.Context()); !frozen || err != nil {
		t.Errorf("Frozen: %v, %v", frozen, err)
	}
	if n, err := a.Thaw(t.Context()); n != 1 || err != nil {
		t.Errorf("Thaw: %d, %v", n, err)
	}
	if frozen, err := a.Frozen(t.Context()); frozen || err != nil {
		t.Errorf("Frozen: %v, %v", frozen, err)
	}
}

func TestErrors(t *testing.T) {
	for answer, c := range map[string]struct {
		kind errs.Kind
		says string
	}{
		`{"error": {"class": "GenericError", "desc": "failed to open /mnt: Permission denied"}}`: {errs.Other, "failed to open /mnt"},
		`{"return": {}}`:                {errs.Corrupt, "guest-fsfreeze-freeze"},
		`{}`:                            {errs.Corrupt, "guest-fsfreeze-freeze"},
		`oops`:                          {errs.Corrupt, "not JSON"},
		strings.Repeat("x", maxReply+1): {errs.Corrupt, "longer than"},
		"":                              {errs.Busy, "closed"},
	} {
		path := fake(t, "", func(string) string { return answer })
		if _, err := dial(t, path).Freeze(t.Context()); errs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%.100s: %v", answer, err)
		}
	}
}

// A guest without an agent never answers, and neither does a socket that another
// program is connected to.
func TestSilence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qga")
	if _, err := Dial(t.Context(), path); !errs.Is(err, errs.NotFound) || errs.HintOf(err) == "" {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, path); !errs.Is(err, errs.Busy) || !strings.Contains(errs.HintOf(err), "virsh") {
		t.Errorf("no answer: %v", err)
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("{\"return\": 1}\n"))
	f.Add([]byte("{\"error\": {\"desc\": \"x\"}}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var n int
		a := &Agent{in: bufio.NewReader(strings.NewReader(string(text)))}
		if err := a.reply(&n); err == nil && !json.Valid(text[:strings.IndexByte(string(text), '\n')]) {
			t.Errorf("%q is taken for %d", text, n)
		}
	})
}
