package redislock

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock"
)

// notices has one connection on which the server tells of released names. It is
// opened for the first who waits, opened again when it breaks, and says then that
// something may have been missed.
type notices struct {
	client *redis.Client

	mu        sync.Mutex
	closed    bool
	sub       *redis.PubSub // nil before the first
	done      chan struct{} // closed when its reader has ended
	listeners map[string]map[*listener]bool
	// order is held while the server is told of channels, so that it hears of
	// them in the order in which they have come and gone here.
	order sync.Mutex
}

// listener is one who waits. Its channels hold one event, which is enough.
type listener struct {
	subscribed chan struct{} // the server has begun to tell, or has begun again
	released   chan struct{}
}

func newNotices(client *redis.Client) *notices {
	return &notices{client: client, listeners: map[string]map[*listener]bool{}}
}

// listen asks the server for notices of a channel, until leave.
func (n *notices) listen(ctx context.Context, channel string) (l *listener, leave func(), err error) {
	l = &listener{subscribed: make(chan struct{}, 1), released: make(chan struct{}, 1)}
	n.order.Lock()
	defer n.order.Unlock()
	if err := ctx.Err(); err != nil { // those before us may have waited for long
		return nil, nil, err
	}
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil, nil, lock.ErrClosed
	}
	if n.sub == nil {
		n.sub, n.done = n.client.Subscribe(ctx), make(chan struct{})
		go n.read(n.sub.ChannelWithSubscriptions())
	}
	if n.listeners[channel] == nil {
		n.listeners[channel] = map[*listener]bool{}
	}
	n.listeners[channel][l] = true
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Again also where others listen: the answer is what tells us that it works.
	if err := n.sub.Subscribe(ctx, channel); err != nil {
		n.forget(channel, l)
		return nil, nil, err
	}
	return l, func() { n.leave(channel, l) }, nil
}

// leave ends the notices of a channel with its last listener. That the server is
// not told, since it cannot be reached, is no harm: nobody listens.
func (n *notices) leave(channel string, l *listener) {
	n.order.Lock()
	defer n.order.Unlock()
	if n.forget(channel, l) {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		_ = n.sub.Unsubscribe(ctx, channel)
	}
}

// forget reports whether l was the channel's last listener.
func (n *notices) forget(channel string, l *listener) (last bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.listeners[channel], l)
	if len(n.listeners[channel]) > 0 {
		return false
	}
	delete(n.listeners, channel)
	return true
}

// read passes on what the server says until the subscription is closed.
func (n *notices) read(said <-chan any) {
	defer close(n.done)
	for notice := range said {
		switch notice := notice.(type) {
		case *redis.Message:
			n.tell(notice.Channel, func(l *listener) chan struct{} { return l.released })
		case *redis.Subscription:
			if notice.Kind == "subscribe" {
				n.tell(notice.Channel, func(l *listener) chan struct{} { return l.subscribed })
			}
		}
	}
}

func (n *notices) tell(channel string, what func(*listener) chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.listeners[channel] {
		select {
		case what(l) <- struct{}{}:
		default: // it has been told
		}
	}
}

// close ends the connection, and waits for its reader.
func (n *notices) close() error {
	n.mu.Lock()
	sub := n.sub
	again := n.closed
	n.closed = true
	n.mu.Unlock()
	if sub == nil || again {
		return nil
	}
	err := sub.Close()
	<-n.done
	return err
}
