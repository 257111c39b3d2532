package jobfile

import (
	"strings"
	"testing"

	"cowl/internal/errs"
)

const whole = `
# every night
nightly {
	volumes = ["server1/db", "server1/log"]
	target = "repo:/backups/cowl"
	password_file = "/root/backup.password"
	schedule = "02:30"
	size = "2G"
	track = 0
	hooks {
		before_snapshot = "psql -c checkpoint"
		on_failure = "mail -s \"$COWL_ERROR\" root"
		timeout = "30s"
	}
	retention {
		daily = 7
		weekly = 4
		within = "72h"
		prune = 1
	}
	verify { schedule = "weekly" sample = 5 }
	drill { schedule = "monthly" run = "test -f \"$COWL_MOUNT/x\"" }
}
small { volumes = ["vg"] target = "/backups" }
`

func TestParse(t *testing.T) {
	jobs, err := Parse([]byte(whole))
	if err != nil || len(jobs) != 2 {
		t.Fatal(jobs, err)
	}
	j := jobs[0]
	if j.Name != "nightly" || len(j.Volumes) != 2 || j.Target != "repo:/backups/cowl" || !j.NoTrack || j.NoFreeze || j.Size != "2G" ||
		j.Hooks["on_failure"] != `mail -s "$COWL_ERROR" root` || j.HookTimeout != "30s" ||
		j.Retention["daily"] != 7 || j.Retention["weekly"] != 4 || j.Within != "72h" || !j.Prune ||
		j.Verify.Sample != 5 || j.Verify.Schedule != "weekly" || j.Drill.Run != `test -f "$COWL_MOUNT/x"` {
		t.Errorf("%+v", j)
	}
	if j := jobs[1]; j.Verify != nil || j.Drill != nil || j.NoTrack || j.Prune || len(j.Retention) != 0 {
		t.Errorf("%+v", j)
	}
}

// What is misspelt or missing is named, with its job.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`a { volumes = ["v"] }`, "job a: target"},
		{`a { target = "x" }`, "job a: volumes"},
		{`a { volumes = ["v"] target = "x" retension { daily = 7 } }`, `job a: "retension" is no key`},
		{`a { volumes = ["v"] target = "x" retention { dayly = 7 } }`, `job a: retention: "dayly"`},
		{`a { volumes = ["v"] target = "x" retention { daily = "7" } }`, "retention: daily: is a number"},
		{`a { volumes = ["v"] target = "x" retention { daily = 0 } }`, "from 1"},
		{`a { volumes = ["v"] target = "x" retention { prune = 1 } }`, "without a rule"},
		{`a { volumes = "v" target = "x" }`, "volumes: is a list"},
		{`a { volumes = ["v"] target = "x" target = "y" }`, "there twice"},
		{`a { volumes = ["v"] target = "x" hooks { timeout = "soon" } }`, "no time"},
		{`a { volumes = ["v"] target = "x" hooks = 1 }`, "is a section"},
		{`a { volumes = ["v"] target = "x" verify { sample = 101 } }`, "from 1 to 100"},
		{`a { volumes = ["v"] target = "x" password_file = "p" password_command = "c" }`, "both"},
		{"a = 1", "stands in no job"},
		{"a.b { }", "cannot be a job's name"},
		{"a { volumes = [\"v\"] target = \"x\" }\na { volumes = [\"v\"] target = \"x\" }", "no two alike"},
		{"a {", "line 1"},
		{strings.Repeat("#", MaxSize+1), "too many"},
	} {
		_, err := Parse([]byte(c.in))
		if !errs.Is(err, errs.Usage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60s: %v, want %q", c.in, err, c.want)
		}
	}
}

// Hostile files never panic, and give jobs that make sense or an error.
func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`a { volumes = [] target = 'x' drill { } }`))
	f.Fuzz(func(t *testing.T, in []byte) {
		jobs, err := Parse(in)
		if err != nil && !errs.Is(err, errs.Usage) {
			t.Errorf("error of kind %v: %v", errs.KindOf(err), err)
		}
		for _, j := range jobs {
			if j.Name == "" || j.Target == "" || len(j.Volumes) == 0 {
				t.Errorf("%+v", j)
			}
		}
	})
}
