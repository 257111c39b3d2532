package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cowl/internal/backup/jobfile"
)

func newJobUnits(a *app) *cobra.Command {
	var o jobFlags
	var dir string
	cmd := &cobra.Command{
		Use: "units [NAME...] [OPTION]...", Short: "Print systemd units that run jobs",
		Long: `Print a service and a timer of systemd for every part of a job that has a
schedule: cowl-NAME, cowl-NAME-verify, cowl-NAME-drill. Schedules are what
systemd's OnCalendar takes ("02:30", "Mon *-*-* 03:00", "weekly"). With --dir the
units are written there.

A run that ends with a warning (exit code 1) counts as a success: the journal has
what there is to say.`,
		Example: `  cowl job units
  cowl job units --dir /etc/systemd/system && systemctl daemon-reload
  systemctl enable --now cowl-nightly.timer`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			jobs, err := o.load(a, args)
			if err != nil {
				return err
			}
			units := a.units(jobs, absolute(o.path(a)))
			for _, u := range units {
				switch {
				case dir == "":
					a.write("# " + u.name + "\n" + u.text + "\n")
				case a.test:
					a.say("Would write %s.", filepath.Join(dir, u.name))
				default:
					if err := os.WriteFile(filepath.Join(dir, u.name), []byte(u.text), 0o644); err != nil {
						return err
					}
					a.say("%s written.", filepath.Join(dir, u.name))
				}
			}
			if len(units) == 0 {
				return errors.New("no job has a schedule")
			}
			return nil
		},
	}
	o.add(cmd.Flags())
	cmd.Flags().StringVar(&dir, "dir", "", "write the units into this `directory`")
	return cmd
}

// write writes text as it is: units are no lines of LVM's.
func (a *app) write(text string) { _, _ = a.Stdout.Write([]byte(text)) }

// unit is a file of systemd's.
type unit struct{ name, text string }

// units makes the units of all parts of the jobs that have a schedule.
func (a *app) units(jobs []*jobfile.Job, file string) (out []unit) {
	for _, j := range jobs {
		add := func(part, schedule string) {
			if schedule == "" {
				return
			}
			name, what := "cowl-"+j.Name, "backup"
			args := []string{a.Executable, "job", "run", "--jobs", file, j.Name}
			if part != "" {
				name, what, args = name+"-"+part, part, append(args, "--"+part)
			}
			out = append(out, unit{name + ".service", "[Unit]\nDescription=cowl: " + what + " of job " + j.Name +
				"\n\n[Service]\nType=oneshot\nExecStart=" + unitArgs(args) + "\nSuccessExitStatus=1\nNice=10\nIOSchedulingPriority=7\n"})
			out = append(out, unit{name + ".timer", "[Unit]\nDescription=cowl: when job " + j.Name + " is run (" + what + ")" +
				"\n\n[Timer]\nOnCalendar=" + strings.ReplaceAll(schedule, "%", "%%") + "\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"})
		}
		add("", j.Schedule)
		if j.Verify != nil {
			add("verify", j.Verify.Schedule)
		}
		if j.Drill != nil {
			add("drill", j.Drill.Schedule)
		}
	}
	return out
}

// unitArgs writes a command line as systemd reads it.
func unitArgs(args []string) string {
	var out []string
	for _, arg := range args {
		arg = strings.NewReplacer("%", "%%", "$", "$$", `\`, `\\`, `"`, `\"`).Replace(arg)
		if strings.ContainsAny(arg, " \t'\"\\") {
			arg = `"` + arg + `"`
		}
		out = append(out, arg)
	}
	return strings.Join(out, " ")
}
