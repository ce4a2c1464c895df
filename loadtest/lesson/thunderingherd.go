package lesson

import (
	"context"
	"fmt"

	"flashsale/loadtest/lesson/herd"
	"flashsale/loadtest/lesson/testbed"
)

var thunderingHerd = Lesson{
	Name:    "thundering-herd",
	Title:   "all waiters wake up, one gets the lock",
	Chinese: "惊群效应：所有等待者被唤醒，只有一个拿到锁",
	Shows:   "50 clients wait for a lock in ZooKeeper. How many requests does a release cause if all watch the holder, or if each watches its predecessor?",
	Servers: []string{ZooKeeper},
	Variants: []Variant{
		{Title: "all waiters watch the holder", Breaks: true, Script: func(run *testbed.Run) { releaseWith(run, herd.All) }},
		{Title: "each waiter watches its predecessor", Script: func(run *testbed.Run) { releaseWith(run, herd.Predecessor) }},
	},
}

// releaseWith lets clients queue up and reports how many requests a release causes.
func releaseWith(run *testbed.Run, way herd.Way) {
	server := run.ZooKeeper()
	var requests int
	run.Actor("clients").To(ZooKeeper, testbed.Lock).Do(fmt.Sprintf("%d wait; the lock is released and granted %d times", herd.Waiters, herd.Releases),
		func(ctx context.Context) (err error) {
			requests, err = herd.Measure(ctx, server, way)
			return err
		})
	text := []string{fmt.Sprintf("a release causes %d requests to the server", requests)}
	if requests > herd.Limit {
		text = append(text, fmt.Sprintf("broken: a release causes at most %d requests, however many clients wait", herd.Limit))
	}
	run.Report(requests <= herd.Limit, text...)
}
