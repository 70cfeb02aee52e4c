package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// A run is judged without its first part, in which a daemon fills its caches. The
// rest is cut into blocks, of which each gives its median: samples that follow
// each other are alike, medians of blocks hardly, and a sawtooth as that of the
// garbage collector is none of them. A line is fitted to these by least squares.
// Its slope counts as zero if it is less than critical times its standard error,
// Student's t for 18 degrees of freedom at 0.1 %, to either side; or if what it
// comes to in the whole run is less than a fiftieth of the mean.
const (
	warmUp   = 5 // the first fifth
	blocks   = 20
	critical = 3.92
	trifle   = 0.02
)

// fit is a line through samples.
type fit struct {
	mean, slope, deviation float64 // the slope's unit is one an hour
	rise                   float64 // over the time that was judged
}

// fitted fits a line to samples that were taken at times, in hours.
func fitted(times, values []float64) fit {
	times, values = times[len(times)/warmUp:], values[len(values)/warmUp:]
	x, y := medians(times), medians(values)
	f := fit{mean: mean(y)}
	mx, sxx, sxy := mean(x), 0.0, 0.0
	for i := range x {
		sxx += (x[i] - mx) * (x[i] - mx)
		sxy += (x[i] - mx) * (y[i] - f.mean)
	}
	f.slope = sxy / sxx
	rest := 0.0
	for i := range x {
		d := y[i] - f.mean - f.slope*(x[i]-mx)
		rest += d * d
	}
	f.deviation = math.Sqrt(rest / float64(len(x)-2) / sxx)
	f.rise = f.slope * (x[len(x)-1] - x[0])
	return f
}

// flat says that the slope is zero, or below it, for all that can be told.
func (f fit) flat() bool {
	return f.slope <= critical*f.deviation || f.rise <= trifle*math.Abs(f.mean)
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

func medians(values []float64) []float64 {
	out := make([]float64, blocks)
	for i := range out {
		block := slices.Sorted(slices.Values(values[i*len(values)/blocks : (i+1)*len(values)/blocks]))
		out[i] = block[len(block)/2]
	}
	return out
}

// judge prints what was fitted. It is an error if anything rises.
func (s *sampler) judge(out io.Writer) error {
	if len(s.times) < 2*blocks {
		return fmt.Errorf("%d samples are too few to judge, %d are needed: let it run longer", len(s.times), 2*blocks)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tmean\tslope/h\tstd. error\tt\trise in the run\t\t")
	var rising []string
	for _, q := range quantities {
		f := fitted(s.times, s.all[q.name])
		verdict := "zero"
		if !f.flat() {
			verdict = "RISES"
			rising = append(rising, q.name)
		}
		fmt.Fprintf(w, "%s\t%.2f\t%+.2f\t%.2f\t%+.1f\t%+.2f\t%s\t\n", q.name, f.mean, f.slope, f.deviation, f.slope/f.deviation, f.rise, verdict)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d samples; the first fifth left out, the slope of the medians of %d blocks; zero is t < %.2f or a rise of less than %.0f %%\n",
		len(s.times), blocks, critical, 100*trifle)
	if len(rising) > 0 {
		return fmt.Errorf("not flat: %q", rising)
	}
	return nil
}
