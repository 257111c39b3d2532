package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/export/nbd"
	"cowl/internal/format/vgtext"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

func TestEveryMethodCrossesTheSocket(t *testing.T) {
	f := newFake(t)
	r := serve(t, f, runDir(t))
	c := r.client
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	spec := volume.LVSpec{Name: "x", Size: volume.Size{Percent: 50, Of: volume.OfFree}, PVs: []volume.PVRange{{PV: "p", Start: 1, End: 2}},
		ReadOnly: true, Tags: []string{"t"}, Contiguous: true}
	snap := volume.SnapshotSpec{Origin: "a", Name: "s", ChunkSize: 16, PVs: []volume.PVRange{{PV: "/q", Whole: true}}}
	more := volume.ExtendSpec{Name: "a", Size: volume.Size{Bytes: 4096}, Relative: true, PVs: []volume.PVRange{{PV: "p", Whole: true}}}
	for _, call := range []struct {
		do   func() (*manager.Result, error)
		want string
	}{
		{func() (*manager.Result, error) { return c.CreateLV(bg, spec) }, "create " + strings.ReplaceAll(fmt.Sprintf("%+v", spec), "PV:p", "PV:"+cwd+"/p")},
		{func() (*manager.Result, error) {
			return c.CreateSnapshots(bg, []volume.SnapshotSpec{snap, {Origin: "b"}})
		},
			fmt.Sprintf("snapshot %+v", []volume.SnapshotSpec{snap, {Origin: "b"}})},
		{func() (*manager.Result, error) { return c.RemoveLVs(bg, []string{"a"}) }, `remove ["a"]`},
		{func() (*manager.Result, error) { return c.ExtendLV(bg, more) }, strings.ReplaceAll(fmt.Sprintf("extend %+v", more), "PV:p", "PV:"+cwd+"/p")},
		{func() (*manager.Result, error) { return c.SetReadOnly(bg, "b", true) }, "read-only b true"},
		{func() (*manager.Result, error) { return c.ChangeTags(bg, "b", []string{"x", "y=1"}, []string{"z"}) }, `tags b ["x" "y=1"] ["z"]`},
		{func() (*manager.Result, error) { return c.Activate(bg, "a", "b") }, `activate ["a" "b"]`},
		{func() (*manager.Result, error) { return c.Activate(bg) }, `activate []`},
		{func() (*manager.Result, error) { return c.Deactivate(bg, "b") }, `deactivate ["b"]`},
		{func() (*manager.Result, error) { return c.Merge(bg, volume.MergeSpec{Name: "s"}) }, "merge s"},
		{func() (*manager.Result, error) {
			return c.Merge(bg, volume.MergeSpec{Name: "s", Rate: new(int64(4096))})
		}, "merge s at 4096"},
		{func() (*manager.Result, error) { return c.AddPVs(bg, []string{"rel", "/abs"}) }, fmt.Sprintf("add [%q \"/abs\"]", filepath.Join(cwd, "rel"))},
		{func() (*manager.Result, error) { return c.RemovePVs(bg, []string{"../rel"}) }, fmt.Sprintf("reduce [%q]", filepath.Join(filepath.Dir(cwd), "rel"))},
		{func() (*manager.Result, error) { return c.ResizePV(bg, "rel", 1<<20) }, fmt.Sprintf("resize %q 1048576", filepath.Join(cwd, "rel"))},
	} {
		if _, err := call.do(); err != nil {
			t.Errorf("%s: %v", call.want, err)
		}
		if asked := f.asked(); asked[len(asked)-1] != call.want {
			t.Errorf("the group was asked\n%s\nwant\n%s", asked[len(asked)-1], call.want)
		}
	}
	if spec.PVs[0].PV != "p" {
		t.Error("the caller's specification was altered")
	}
	res, err := c.CreateLV(bg, spec)
	if want := (&manager.Result{Names: []string{"x"}, Notes: []string{"Rounding up."}}); err != nil || !reflect.DeepEqual(res, want) {
		t.Errorf("result %+v, %v", res, err)
	}
}

// What is known of writes comes as it is, and what is not known does not.
func TestWritesCrossTheSocket(t *testing.T) {
	f := newFake(t)
	r := serve(t, f, runDir(t))
	got, err := r.client.Writes(bg, "a")
	want, _ := f.Writes(bg, "a")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := r.client.Writes(bg, "nosuch"); !errs.Is(err, errs.NotFound) {
		t.Errorf("a volume that is not there: %v", err)
	}
}

// So do changes, of which there are many.
func TestChangesCrossTheSocket(t *testing.T) {
	f := newFake(t)
	r := serve(t, f, runDir(t))
	got, err := r.client.Changed(bg, "a")
	if err != nil {
		t.Fatal(err)
	}
	want, _ := f.Changed(bg, "a")
	if !slices.Equal(slices.Collect(got.All()), slices.Collect(want.All())) || got.Snapshot != "a" || !got.Time.Equal(want.Time) || got.Bytes != want.Bytes {
		t.Errorf("%+v, want %+v", got, want)
	}
	if _, err := r.client.Changed(bg, "nosuch"); !errs.Is(err, errs.NotFound) {
		t.Errorf("a snapshot that is not there: %v", err)
	}
}

func TestStatusCrossesTheSocket(t *testing.T) {
	f := newFake(t)
	r := serve(t, f, runDir(t))
	got, err := r.client.Status(bg)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := f.Status(bg)
	if got.Owner != os.Getpid() || r.client.PID() != os.Getpid() {
		t.Errorf("owner %d, want %d", got.Owner, os.Getpid())
	}
	if a, b := vgtext.Encode(got.Group), vgtext.Encode(want.Group); string(a) != string(b) {
		t.Errorf("metadata\n%s\nwant\n%s", a, b)
	}
	if !reflect.DeepEqual(got.PVs, want.PVs) {
		t.Errorf("PVs %+v, want %+v", got.PVs, want.PVs)
	}
	lv := got.LVs["a"]
	if uri := "nbd+unix:///a?socket=" + r.dir + "/vg.nbd"; lv.NBD != uri {
		t.Errorf("NBD address %q, want %q", lv.NBD, uri)
	}
	lv.NBD, lv.File = "", ""
	if !reflect.DeepEqual(lv, want.LVs["a"]) || len(got.LVs) != 2 {
		t.Errorf("status of a: %+v, want %+v", lv, want.LVs["a"])
	}
}

func TestErrorsKeepKindTextAndHint(t *testing.T) {
	f := newFake(t)
	r := serve(t, f, runDir(t))
	for _, kind := range []errs.Kind{errs.Other, errs.Usage, errs.NotFound, errs.Exists, errs.Busy, errs.NoSpace, errs.Corrupt, errs.Conflict, errs.Unsupported, errs.Denied} {
		sent := errs.WithHint(errs.E(kind, "100%% of %q", "vg"), "try %d%%", 50)
		f.mu.Lock()
		f.onCreateLV = func(context.Context) (*manager.Result, error) { return nil, sent }
		f.mu.Unlock()
		res, err := r.client.CreateLV(bg, volume.LVSpec{})
		if errs.KindOf(err) != kind || err.Error() != sent.Error() || errs.HintOf(err) != "try 50%" || res != nil {
			t.Errorf("got %v (%v, hint %q) and %+v, want %v", err, errs.KindOf(err), errs.HintOf(err), res, sent)
		}
	}
	f.mu.Lock()
	f.onActivate = func() (*manager.Result, error) {
		return &manager.Result{Names: []string{"a"}}, errs.E(errs.Unsupported, "b is thin")
	}
	f.mu.Unlock()
	res, err := r.client.Activate(bg)
	if res == nil || !slices.Equal(res.Names, []string{"a"}) || !errs.Is(err, errs.Unsupported) {
		t.Errorf("success in part: %+v, %v", res, err)
	}
}

// Ctrl-C in a client has to reach what it started.
func TestCancellationCrossesTheSocket(t *testing.T) {
	f := newFake(t)
	r := serve(t, f, runDir(t))
	began, cancelled := make(chan struct{}), make(chan struct{})
	f.onCreateLV = func(ctx context.Context) (*manager.Result, error) {
		close(began)
		<-ctx.Done()
		close(cancelled)
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(bg)
	go func() {
		<-began
		cancel()
	}()
	if _, err := r.client.CreateLV(ctx, volume.LVSpec{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-cancelled
}

func TestHostileRequests(t *testing.T) {
	r := serve(t, newFake(t), runDir(t))
	post := func(path, version, body string) (int, string) {
		req, err := http.NewRequest("POST", "http://cowl/"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(protocolHeader, version)
		res, err := r.client.http.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		var rep reply
		if err := decodeStrict(res.Body, maxReply, &rep); err != nil || rep.Error == nil {
			return res.StatusCode, ""
		}
		return res.StatusCode, rep.Error.Kind + ": " + rep.Error.Text
	}
	now := strconv.Itoa(protocol)
	for _, c := range []struct{ path, version, body, want string }{
		{"activate", now, `{"names":["a"],"force":true}`, `unknown field "force"`},
		{"activate", now, `{"names":["a"]}{"names":["b"]}`, "more than one value"},
		{"activate", now, `{"names":["a"]} x`, "more than one value"},
		{"activate", now, `{"names":`, "malformed"},
		{"activate", now, ``, "malformed"},
		{"activate", now, `{"names":7}`, "malformed"},
		{"activate", now, `[` + strings.Repeat("[", 100000), "malformed"},
		{"create-lv", now, `{"spec":{"Size":{"Bytes":1e400}}}`, "malformed"},
		{"merge", now, `{"snapshot":"` + strings.Repeat("x", maxRequest) + `"}`, "larger than"},
		{"activate", "2", `{"names":["a"]}`, `this client speaks control protocol "2", the daemon 1`},
		{"activate", "", `{"names":["a"]}`, "unsupported"},
		{"../../etc/passwd", now, `{}`, ""},
		{"nothing", now, `{}`, ""},
	} {
		status, text := post(c.path, c.version, c.body)
		if status < 400 || !strings.Contains(text, c.want) {
			t.Errorf("%s %.40q: status %d, %q, want %q", c.path, c.body, status, text, c.want)
		}
	}
	for _, raw := range []string{"\x00\x01\x02", "GET / HTTP/9.9\r\n\r\n", "POST /activate HTTP/1.1\r\nContent-Length: -5\r\n\r\n"} {
		nc, err := net.Dial("unix", filepath.Join(r.dir, "vg.ctl"))
		if err != nil {
			t.Fatal(err)
		}
		nc.Write([]byte(raw))
		nc.Close()
	}
	if _, err := r.client.Status(bg); err != nil {
		t.Errorf("after all that: %v", err)
	}
	for _, call := range r.group.asked()[1:] {
		t.Errorf("a bad request reached the group: %s", call)
	}
}

// A daemon that outlived an upgrade, or is from the future.
func TestOtherVersionsAreToldPlainly(t *testing.T) {
	dir := runDir(t)
	for _, c := range []struct {
		answer string
		kind   errs.Kind
		want   string
	}{
		{`{"protocol":7,"pid":4711,"group":"vg","more":{"a":1}}`, errs.Unsupported, "the daemon of volume group vg (pid 4711) speaks control protocol 7, this cowl 1"},
		{`{"protocol":1,"pid":4711,"group":"other"}`, errs.Conflict, `"other"`},
		{`<html>`, errs.Corrupt, "does not answer as a cowl daemon does"},
		{`{}`, errs.Corrupt, "does not answer as a cowl daemon does"},
	} {
		l, err := nbd.Listen(filepath.Join(dir, "vg.ctl"))
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(c.answer)) })}
		var wg sync.WaitGroup
		wg.Go(func() { srv.Serve(l) })
		_, err = Connect(bg, dir, "vg")
		wantKind(t, c.answer, err, c.kind)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.answer, err, c.want)
		}
		srv.Close()
		wg.Wait()
	}
}
