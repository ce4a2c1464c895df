package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/contract"
	"flashsale/internal/limit"
	"flashsale/internal/stock"
)

// trailTimeout bounds each read that only the trail needs: the caller waits for it.
const trailTimeout = time.Second

// actor is who made an administrator's call. The zero value is unknown.
type actor struct{ kind, subject string }

// The kinds of actors.
const (
	actorAdminToken = "admin-token"
	actorJWT        = "jwt"
)

// change is what a call changed: fields with their values before and after.
type change struct {
	before, after map[string]any
	err           error // why they are not known
}

// guessRate and guessBurst bound the log lines about counted guesses.
const (
	guessRate  = 50
	guessBurst = 500
)

// authenticateAdministrator checks the caller's token, unless the caller's address has
// guessed too often: then no token is compared, so that the answer does not depend on
// whether it is right.
func (a *api) authenticateAdministrator(c *gin.Context) (err error) {
	this, guess := callOf(c), false
	v := a.cfg.Limits.Try(limit.AdminGuesses, a.network(c).String(), func() bool {
		this.actor, err = a.verifier.administrator(c)
		p, _ := errors.AsType[*problem](err)
		guess = p != nil && p.guess
		return guess
	})
	this.counted = guess && v.Limit.Requests > 0
	if v.OK {
		return err
	}
	c.Header("Retry-After", strconv.Itoa(v.Wait))
	return kindTooMany.problem(fmt.Sprintf("The limit is %d refused admin tokens in %s by address. %s", v.Limit.Requests, v.Limit.Window, kindTooMany.detail))
}

// traceChange reads a SKU before and after an administrator's call that may change it.
// A change of another call in between shows as a gap in the revisions.
func (a *api) traceChange(c *gin.Context) {
	this, sku := callOf(c), c.Param("sku")
	if a.cfg.Stock == nil || !strings.HasPrefix(this.operation.Path, "/v1/admin/skus/") || this.operation.Method == http.MethodGet || a.checkSKU(sku) != "" {
		return
	}
	before, err := a.fields(c, sku)
	c.Next()
	if this.problem != nil && this.problem.Status < http.StatusInternalServerError {
		return // nothing was applied
	}
	after, afterErr := a.fields(c, sku)
	if err = errors.Join(err, afterErr); err != nil {
		this.change.err = err
		return
	}
	differs := func(in map[string]any) func(string, any) bool {
		return func(name string, value any) bool { return name != "revision" && reflect.DeepEqual(in[name], value) }
	}
	was, is := maps.Clone(before), maps.Clone(after)
	maps.DeleteFunc(was, differs(after))
	maps.DeleteFunc(is, differs(before))
	if !reflect.DeepEqual(was, is) {
		this.change.before, this.change.after = was, is
	}
}

// fields returns a SKU's fields that administrators set, by their names in JSON; none
// if there is no such SKU. It reads them also after the client has disconnected.
func (a *api) fields(c *gin.Context, sku string) (fields map[string]any, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request.Context()), trailTimeout)
	defer cancel()
	s, err := a.cfg.Stock.Get(ctx, sku)
	switch {
	case errors.Is(err, stock.ErrUnknownSKU):
		return nil, nil
	case err != nil:
		return nil, err
	}
	text, err := json.Marshal(presentSKU(&s))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err
	}
	delete(fields, "available") // sales change it
	fields["revision"] = s.Revision
	return fields, nil
}

// trail logs each administrator's call, whatever its outcome: outside of recover, so
// that it also logs calls that panic.
func (a *api) trail(c *gin.Context) {
	defer a.logAdministrator(c)
	c.Next()
}

func (a *api) logAdministrator(c *gin.Context) {
	this := callIn(c)
	if this == nil || this.operation == nil || this.operation.Scheme != contract.Administrator {
		return
	}
	attrs := []slog.Attr{
		slog.String("action", this.operation.ID), slog.String("method", c.Request.Method), slog.String("path", c.Request.URL.Path),
		slog.Int("status", c.Writer.Status()), slog.String("remote", a.clientAddress(c).String()), slog.String("actor", this.actor.kind),
	}
	optional := func(name string, value any, given bool) {
		if given {
			attrs = append(attrs, slog.Any(name, value))
		}
	}
	sku := c.Param("sku")
	optional("sku", sku, sku != "" && a.checkSKU(sku) == "")
	optional("subject", this.actor.subject, this.actor.subject != "")
	optional("before", this.change.before, this.change.before != nil)
	optional("after", this.change.after, this.change.after != nil)
	optional("change_unknown", this.change.err, this.change.err != nil)
	optional("replayed", true, c.Writer.Header().Get("Idempotent-Replayed") != "")
	if p := this.problem; p != nil {
		optional("problem", p.slug(), true)
		// The body was checked: it has a SKU's fields, and is small.
		optional("requested", json.RawMessage(this.body), p.Status >= http.StatusInternalServerError && len(this.body) > 0)
		if p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden || p.Status == http.StatusTooManyRequests {
			optional("reason", p.Detail, true)
			// Anyone can be refused: the lines must not fill the disk. Counted guesses of the
			// token have lines of their own, as a flood of other calls must not hide them. A
			// limit bounds those of an address, but an attacker may have thousands of these.
			lines := &a.refusals
			if this.counted {
				lines = &a.guesses
			}
			logged := false
			lines.Do(func() { logged = true })
			if !logged {
				a.unlogged.Add(1)
				return
			}
			n := a.unlogged.Swap(0)
			optional("unlogged", n, n > 0)
		}
	}
	a.cfg.Logger.LogAttrs(c.Request.Context(), slog.LevelInfo, "admin call", attrs...)
}
