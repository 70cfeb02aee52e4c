package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"
)

// figure is one number with a goal. Most are ratios of what AgentLab does to a
// floor that was measured in the same run, turn by turn.
type figure struct {
	ID    string  `json:"id"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`  // "x": as many times the floor; "MB", "kB"
	Floor float64 `json:"floor"` // milliseconds, or a rate for a ratio of rates; 0 if there is none
	Goal  float64 `json:"goal"`
	OK    bool    `json:"ok"`
	N     int     `json:"n"`

	what    string // for people
	ours    string // with its spread
	theirs  string
	atLeast bool // the goal is a lower bound
}

// judged says whether the figure reaches its goal.
func (f figure) judged() figure {
	f.OK = f.Value <= f.Goal
	if f.atLeast {
		f.OK = f.Value >= f.Goal
	}
	f.Value = round(f.Value)
	f.Floor = round(f.Floor)
	return f
}

func round(x float64) float64 { return math.Round(x*1000) / 1000 }

// sample is what was measured, turn by turn.
type sample []time.Duration

// quantile returns the value below which the share q of the sample lies, 0 to 1.
func (s sample) quantile(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

func (s sample) median() time.Duration { return s.quantile(0.5) }

// String gives the median and the 10th and 90th percentile, in milliseconds.
func (s sample) String() string {
	return fmt.Sprintf("%.2f ms (%.2f-%.2f)", ms(s.median()), ms(s.quantile(0.1)), ms(s.quantile(0.9)))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// slower is how many times the floor's time ours takes.
func slower(id, what string, ours, floor sample, atMost float64) figure {
	return figure{
		ID: id, what: what, Unit: "x", N: len(ours), Goal: atMost,
		Value: ms(ours.median()) / ms(floor.median()), Floor: ms(floor.median()),
		ours: ours.String(), theirs: floor.String(),
	}.judged()
}

// atWorst is how many times the floor's slowest calls take: the 99th percentile.
func atWorst(id, what string, ours, floor sample, atMost float64) figure {
	f := slower(id, what, ours, floor, atMost)
	worst, of := ours.quantile(0.99), floor.quantile(0.99)
	f.Value, f.Floor = ms(worst)/ms(of), ms(of)
	f.ours += fmt.Sprintf(", p99 %.2f", ms(worst))
	f.theirs += fmt.Sprintf(", p99 %.2f", ms(of))
	return f.judged()
}

// faster is how many times the floor's rate ours reaches, when both samples
// are times for the same amount of work.
func faster(id, what string, ours, floor sample, atLeast float64) figure {
	return figure{
		ID: id, what: what, Unit: "x", N: len(ours), Goal: atLeast, atLeast: true,
		Value: ms(floor.median()) / ms(ours.median()), Floor: ms(floor.median()),
		ours: ours.String(), theirs: floor.String(),
	}.judged()
}

// size is a plain number that has a limit.
func size(id, what, unit string, value, atMost float64, n int) figure {
	return figure{
		ID: id, what: what, Unit: unit, N: n, Goal: atMost, Value: value,
		ours: fmt.Sprintf("%.1f %s", value, unit), theirs: "-",
	}.judged()
}

// slowest is the 99th percentile of what takes so many milliseconds.
func slowest(id, what string, ours sample, atMost float64) figure {
	f := size(id, what, "ms", ms(ours.quantile(0.99)), atMost, len(ours))
	f.ours = ours.String()
	return f
}

// report prints figures as they are measured.
type report interface {
	add(figure) error
	close() error
}

// lines prints a figure a line, for programs.
type lines struct{ *json.Encoder }

func (l lines) add(f figure) error { return l.Encode(f) }
func (lines) close() error         { return nil }

// table prints them aligned at the end, for people.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer) table {
	t := table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	fmt.Fprintln(t.w, "what\tours: median (p10-p90)\tfloor\tfigure\tgoal\t\tn")
	return t
}

func (t table) add(f figure) error {
	bound, verdict := "<=", "ok"
	if f.atLeast {
		bound = ">="
	}
	if !f.OK {
		verdict = "NOT MET"
	}
	_, err := fmt.Fprintf(t.w, "%s\t%s\t%s\t%.2f %s\t%s %g\t%s\t%d\n", f.what, f.ours, f.theirs, f.Value, f.Unit, bound, f.Goal, verdict, f.N)
	return err
}

func (t table) close() error { return t.w.Flush() }
