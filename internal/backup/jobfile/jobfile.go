// Package jobfile reads job files: what is backed up regularly, where to, what is
// kept of it, and when it is verified. It knows the grammar (that of LVM2's
// configuration, package config) and the meaning of the keys, and runs nothing.
// docs/cli.md describes the file.
package jobfile

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"cowl/internal/errs"
	"cowl/internal/format/config"
)

// MaxSize bounds what is read as a job file.
const MaxSize = 1 << 20

// Job is one job. Fields without a value in the file are zero.
type Job struct {
	Name     string   `json:"name"`
	Volumes  []string `json:"volumes"` // VG/LV or VG
	Target   string   `json:"target"`
	Format   string   `json:"format,omitempty"`
	Compress string   `json:"compress,omitempty"` // of tar and qcow2 images
	Size     string   `json:"size,omitempty"`     // of each snapshot, as -L has it
	Schedule string   `json:"schedule,omitempty"`

	PasswordFile    string `json:"password_file,omitempty"`
	PasswordCommand string `json:"password_command,omitempty"`

	NoFreeze bool `json:"no_freeze,omitempty"`
	NoTrack  bool `json:"no_track,omitempty"`

	Hooks       map[string]string `json:"hooks,omitempty"` // by stage
	HookTimeout string            `json:"hook_timeout,omitempty"`

	Retention map[string]int64 `json:"retention,omitempty"` // by rule: last, hourly, ...
	Within    string           `json:"within,omitempty"`
	Prune     bool             `json:"prune,omitempty"`

	Verify *Check `json:"verify,omitempty"`
	Drill  *Check `json:"drill,omitempty"`
}

// Check is how a job's backups are verified, or drilled.
type Check struct {
	Schedule string `json:"schedule,omitempty"`
	Sample   int64  `json:"sample,omitempty"` // percent, of verify
	Run      string `json:"run,omitempty"`    // of drill
	Dir      string `json:"dir,omitempty"`    // of drill
}

// names of jobs become names of systemd units.
var jobName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$`)

// Stages and Rules are the keys of the sections hooks and retention.
var (
	Stages = []string{"before_snapshot", "after_snapshot", "after_backup", "on_failure"}
	Rules  = []string{"last", "hourly", "daily", "weekly", "monthly", "yearly"}
)

// Parse reads a job file. Every error is of kind errs.Usage and names the job
// and the key: a key that is misspelt would otherwise be a rule that silently
// does not hold.
func Parse(text []byte) ([]*Job, error) {
	if len(text) > MaxSize {
		return nil, errs.E(errs.Usage, "%d bytes are too many for a job file", len(text))
	}
	nodes, err := config.Parse(text)
	if err != nil {
		return nil, errs.E(errs.Usage, "%w", err)
	}
	var jobs []*Job
	seen := map[string]bool{}
	for _, n := range nodes {
		if !n.Section {
			return nil, errs.E(errs.Usage, "%s = ... stands in no job: write NAME { ... }", n.Key)
		}
		if !jobName.MatchString(n.Key) || seen[n.Key] {
			return nil, errs.E(errs.Usage, "%q cannot be a job's name: letters, digits, - and _, and no two alike", n.Key)
		}
		seen[n.Key] = true
		j := &Job{Name: n.Key, Hooks: map[string]string{}, Retention: map[string]int64{}}
		if err := j.read(n.Children); err != nil {
			return nil, errs.E(errs.Usage, "job %s: %w", n.Key, err)
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// setters read the values of a section's keys.
type setters map[string]func(config.Node) error

// section reads the entries of a section, each key once.
func section(nodes []config.Node, keys setters) error {
	seen := map[string]bool{}
	for _, n := range nodes {
		set, ok := keys[n.Key]
		switch {
		case !ok:
			return fmt.Errorf("%q is no key here; these are: %s", n.Key, strings.Join(slices.Sorted(maps.Keys(keys)), ", "))
		case seen[n.Key]:
			return fmt.Errorf("%s is there twice", n.Key)
		}
		seen[n.Key] = true
		if err := set(n); err != nil {
			return fmt.Errorf("%s: %w", n.Key, err)
		}
	}
	return nil
}

func (j *Job) read(nodes []config.Node) error {
	err := section(nodes, setters{
		"volumes":          stringList(&j.Volumes),
		"target":           text(&j.Target),
		"format":           text(&j.Format),
		"compress":         text(&j.Compress),
		"size":             text(&j.Size),
		"schedule":         text(&j.Schedule),
		"password_file":    text(&j.PasswordFile),
		"password_command": text(&j.PasswordCommand),
		"freeze":           unless(&j.NoFreeze),
		"track":            unless(&j.NoTrack),
		"hooks":            sub(j.hooks()),
		"retention":        sub(j.retention()),
		"verify": func(n config.Node) error {
			j.Verify = &Check{}
			return sub(setters{"schedule": text(&j.Verify.Schedule), "sample": number(&j.Verify.Sample, 1, 100)})(n)
		},
		"drill": func(n config.Node) error {
			j.Drill = &Check{}
			return sub(setters{"schedule": text(&j.Drill.Schedule), "run": text(&j.Drill.Run), "dir": text(&j.Drill.Dir)})(n)
		},
	})
	switch {
	case err != nil:
		return err
	case len(j.Volumes) == 0:
		return fmt.Errorf("volumes = [...] is missing")
	case j.Target == "":
		return fmt.Errorf("target = \"...\" is missing")
	case j.PasswordFile != "" && j.PasswordCommand != "":
		return fmt.Errorf("password_file and password_command are both there")
	case j.Prune && len(j.Retention) == 0 && j.Within == "":
		return fmt.Errorf("retention: prune without a rule")
	}
	return nil
}

func (j *Job) hooks() setters {
	keys := setters{"timeout": duration(&j.HookTimeout)}
	for _, stage := range Stages {
		keys[stage] = func(n config.Node) error {
			var command string
			err := text(&command)(n)
			j.Hooks[stage] = command
			return err
		}
	}
	return keys
}

func (j *Job) retention() setters {
	prune := true
	keys := setters{"within": duration(&j.Within), "prune": func(n config.Node) error {
		err := unless(&prune)(n)
		j.Prune = !prune
		return err
	}}
	for _, rule := range Rules {
		keys[rule] = func(n config.Node) error {
			var count int64
			err := number(&count, 1, 1_000_000)(n)
			j.Retention[rule] = count
			return err
		}
	}
	return keys
}

func sub(keys setters) func(config.Node) error {
	return func(n config.Node) error {
		if !n.Section {
			return fmt.Errorf("is a section: { ... }")
		}
		return section(n.Children, keys)
	}
}

func text(to *string) func(config.Node) error {
	return func(n config.Node) error {
		if n.Section || n.Value.Kind != config.String || n.Value.Text == "" || strings.ContainsAny(n.Value.Text, "\n\x00") {
			return fmt.Errorf("is a \"text\" of one line")
		}
		*to = n.Value.Text
		return nil
	}
}

func duration(to *string) func(config.Node) error {
	return func(n config.Node) error {
		if err := text(to)(n); err != nil {
			return err
		}
		if d, err := time.ParseDuration(*to); err != nil || d <= 0 {
			return fmt.Errorf("%q is no time like \"90s\" or \"72h\"", *to)
		}
		return nil
	}
}

func number(to *int64, least, most int64) func(config.Node) error {
	return func(n config.Node) error {
		if n.Section || n.Value.Kind != config.Int || n.Value.Int < least || n.Value.Int > most {
			return fmt.Errorf("is a number from %d to %d", least, most)
		}
		*to = n.Value.Int
		return nil
	}
}

// unless reads 0 or 1 into its opposite: what is on by default is zero.
func unless(to *bool) func(config.Node) error {
	return func(n config.Node) error {
		var on int64
		err := number(&on, 0, 1)(n)
		*to = on == 0
		return err
	}
}

func stringList(to *[]string) func(config.Node) error {
	return func(n config.Node) error {
		if n.Section || n.Value.Kind != config.Array {
			return fmt.Errorf("is a list: [\"VG/LV\", ...]")
		}
		for _, v := range n.Value.Array {
			if v.Kind != config.String || v.Text == "" {
				return fmt.Errorf("is a list of \"texts\"")
			}
			*to = append(*to, v.Text)
		}
		return nil
	}
}
