package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"flashsale/loadtest/attack"
)

type envCmd struct {
	outFlag `embed:"" set:"file=the stack's sandbox.json"`
}

// Run prints shell commands that export the first replica's URL as SHOP, and everything
// else under the names that the programs read.
func (c *envCmd) Run(_ context.Context, s streams) error {
	path := filepath.Join(c.Out, sandboxFile)
	var d sandboxDescription
	if err := readJSON(path, &d); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("no stack is running; start one with make up: %w", err)
	} else if err != nil {
		return err
	}
	if len(d.Replicas) == 0 {
		return fmt.Errorf("%s lists no replicas", path)
	}
	for _, v := range []struct{ name, value string }{
		{"SHOP", d.Replicas[0]},
		{"FLASHSALE_ADMIN_TOKEN", d.AdminToken},
		{"FLASHSALE_JWT_SECRET", d.JWTSecret},
		{"FLASHSALE_MYSQL_DSN", d.MySQLDSN},
		{"FLASHSALE_ETCD_ENDPOINTS", strings.Join(d.EtcdEndpoints, ",")},
	} {
		if v.value == "" {
			continue // the strategy uses no etcd
		}
		if _, err := fmt.Fprintf(s.out, "export %s='%s'\n", v.name, strings.ReplaceAll(v.value, "'", `'\''`)); err != nil {
			return err
		}
	}
	return nil
}

type tokenCmd struct {
	Customer  string `arg:"" placeholder:"NAME" help:"The customer: the token's sub."`
	JWTSecret string `name:"jwt-secret" exact:"" required:"" env:"FLASHSALE_JWT_SECRET" placeholder:"SECRET" help:"The service's HS256 secret."`
}

// Run prints a customer's token, like one that a shop's sign-in issues.
func (c *tokenCmd) Run(_ context.Context, s streams) error {
	if c.Customer == "" || c.JWTSecret == "" {
		return errors.New("the customer and --jwt-secret must not be empty")
	}
	_, err := fmt.Fprintln(s.out, attack.Token(c.Customer, c.JWTSecret))
	return err
}
