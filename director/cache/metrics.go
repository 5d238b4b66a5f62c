package cache

import (
	"github.com/prometheus/client_golang/prometheus"
)

// register adds the client's metrics to reg, and gives what takes them away.
func (c *Client) register(reg prometheus.Registerer) (unregister func(), err error) {
	if reg == nil {
		return func() {}, nil
	}
	var done []prometheus.Collector
	unregister = func() {
		for _, m := range done {
			reg.Unregister(m)
		}
	}
	for _, m := range c.metrics() {
		if err := reg.Register(m); err != nil {
			unregister()
			return nil, err
		}
		done = append(done, m)
	}
	return unregister, nil
}

func (c *Client) metrics() []prometheus.Collector {
	gauge := func(name, help string, labels prometheus.Labels, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f)
	}
	ms := []prometheus.Collector{
		gauge("waypost_directory_lag_seconds", "How long ago the directory cache was last known to be current.", nil,
			func() float64 { return c.Lag().Seconds() }),
		gauge("waypost_directory_stale", "1 while answers from the directory cache may be stale.", nil,
			func() float64 { return float64(one(c.Stale())) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "waypost_directory_watch_restarts_total",
			Help: "How often the directory was read anew after its watch ended."},
			func() float64 { return float64(c.restarts.Load()) }),
	}
	for i := range kinds {
		k := &kinds[i]
		ms = append(ms, gauge("waypost_directory_records", "Records in the directory cache.", prometheus.Labels{"kind": k.name},
			func() float64 { return float64(k.count(c.st.Load())) }))
	}
	for _, result := range []string{"hit", "miss"} {
		ms = append(ms, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "waypost_directory_lookups_total", Help: "Look-ups of users in the directory cache.",
			ConstLabels: prometheus.Labels{"result": result}},
			func() float64 { return c.lookups(result == "hit") }))
	}
	return ms
}

func (c *Client) lookups(hits bool) float64 {
	n := uint64(0)
	for i := range c.shared.lookups {
		if hits {
			n += c.shared.lookups[i].hits.Load()
		} else {
			n += c.shared.lookups[i].misses.Load()
		}
	}
	return float64(n)
}
