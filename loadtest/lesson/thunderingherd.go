package lesson

import (
	"context"
	"fmt"

	"flashsale/loadtest/lesson/herd"
	"flashsale/loadtest/lesson/testbed"
)

var thunderingHerd = Lesson{
	Name:    "thundering-herd",
	Title:   "everybody is woken, and one is served",
	Shows:   "50 clients wait for a lock in ZooKeeper. What does a release cost, if all watch the holder, and if each watches the one before it?",
	Servers: []Server{ZooKeeper},
	Acts: []Act{
		{Title: "all who wait watch the holder", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			return playHerd(p, herd.All)
		}},
		{Title: "each watches the one before it", Play: func(p *testbed.Play) testbed.Audit {
			return playHerd(p, herd.Predecessor)
		}},
	},
}

// playHerd has clients queue up, and audits what a release costs.
func playHerd(p *testbed.Play, way herd.Way) testbed.Audit {
	server, waiters := p.ZooKeeper(), p.Actor("clients")
	var requests int
	waiters.Does(fmt.Sprintf("%d wait, the lock is released %d times and passed on", herd.Waiters, herd.Releases),
		func(ctx context.Context) (err error) {
			requests, err = herd.Measure(ctx, server, way)
			return err
		})
	audit := testbed.Audit{OK: requests <= herd.Limit, Text: []string{fmt.Sprintf("a release costs the server %d requests", requests)}}
	if !audit.OK {
		audit.Text = append(audit.Text, fmt.Sprintf("broken: it costs at most %d, however many wait", herd.Limit))
	}
	return audit
}
