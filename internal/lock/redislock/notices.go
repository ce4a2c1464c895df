package redislock

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock"
)

// notices receives the announcements of releases on one connection, which the first
// waiter opens. After a reconnect, it tells the waiters that they may have missed one.
type notices struct {
	client *redis.Client

	mu        sync.Mutex
	closed    bool
	sub       *redis.PubSub // nil before the first waiter
	done      chan struct{} // closed when read has ended
	listeners map[string]map[*listener]bool
	// order is held during a request to subscribe or unsubscribe, so that the server
	// gets them in the order of the changes here.
	order sync.Mutex
}

// listener is one waiter. Each channel buffers one event.
type listener struct {
	subscribed chan struct{} // the server has confirmed the subscription, or a new one
	released   chan struct{}
}

func newNotices(client *redis.Client) *notices {
	return &notices{client: client, listeners: map[string]map[*listener]bool{}}
}

// listen subscribes to a channel until leave is called.
func (n *notices) listen(ctx context.Context, channel string) (l *listener, leave func(), err error) {
	l = &listener{subscribed: make(chan struct{}, 1), released: make(chan struct{}, 1)}
	n.order.Lock()
	defer n.order.Unlock()
	if err := ctx.Err(); err != nil { // order may have been held for long
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
	// Also if others listen to the channel: the answer shows that the connection works.
	if err := n.sub.Subscribe(ctx, channel); err != nil {
		n.forget(channel, l)
		return nil, nil, err
	}
	return l, func() { n.leave(channel, l) }, nil
}

// leave unsubscribes after the last listener of a channel. An error does no harm, because
// nothing listens.
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

// read passes the server's messages on until the subscription is closed.
func (n *notices) read(messages <-chan any) {
	defer close(n.done)
	for message := range messages {
		switch m := message.(type) {
		case *redis.Message:
			n.tell(m.Channel, func(l *listener) chan struct{} { return l.released })
		case *redis.Subscription:
			if m.Kind == "subscribe" {
				n.tell(m.Channel, func(l *listener) chan struct{} { return l.subscribed })
			}
		}
	}
}

func (n *notices) tell(channel string, event func(*listener) chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.listeners[channel] {
		select {
		case event(l) <- struct{}{}:
		default: // the last event has not been received yet
		}
	}
}

// close closes the connection and waits for read.
func (n *notices) close() error {
	n.mu.Lock()
	sub, again := n.sub, n.closed
	n.closed = true
	n.mu.Unlock()
	if sub == nil || again {
		return nil
	}
	err := sub.Close()
	<-n.done
	return err
}
