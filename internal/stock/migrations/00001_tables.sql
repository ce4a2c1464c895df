-- +goose Up

-- MySQL commits each statement by itself: each can be run again, so that a migration
-- that failed half way goes on from there.

-- sku, customer and key are VARBINARY: with the usual collations 'A' equals
-- 'a', and 'k' equals 'k ' even in utf8mb4_bin, which would join what buyers
-- sent apart.
--
-- No CHECK (available >= 0) and no foreign key: the audit finds what is wrong,
-- the strategies that oversell must be able to show it, and a foreign key
-- would lock the stock row again for each order.
--
-- revision moves with each change by an administrator, not with sales.
CREATE TABLE IF NOT EXISTS stock (
  sku                VARBINARY(64)   NOT NULL,
  name               VARCHAR(255)    NOT NULL,
  price_cents        BIGINT          NOT NULL,
  currency           CHAR(3)         NOT NULL,
  units              BIGINT          NOT NULL,
  available          BIGINT          NOT NULL,
  per_customer_limit INT             NULL,
  sale_starts_at     DATETIME(6)     NULL,
  sale_ends_at       DATETIME(6)     NULL,
  fence              BIGINT UNSIGNED NOT NULL DEFAULT 0,
  seq                BIGINT UNSIGNED NOT NULL DEFAULT 0,
  revision           BIGINT UNSIGNED NOT NULL DEFAULT 1,
  created_at         DATETIME(6)     NOT NULL,
  updated_at         DATETIME(6)     NOT NULL,
  PRIMARY KEY (sku)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- id is a UUID of version 7: rows arrive in the order of the primary key.
-- price, limit and fingerprint are those that stood when the order was made;
-- fence and seq are those of the write that admitted it. closed_at is when an order
-- was paid, cancelled or expired. returned_by names the write that gave its units
-- back: they are added to the stock by that name, in the same transaction, so that
-- they return once.
--
-- What an INSERT costs is mostly its indexes (BenchmarkInsertBatch of package order).
-- New entries of of_sku come at the end of each SKU's, and those of expiring at the
-- end of the reserved ones. Entries of one_order_a_key come anywhere, which costs
-- several times as much: so there is no second index that begins with the customer.
-- InnoDB ends each entry of an index with the primary key. The SKU is in it for
-- the sake of one_order_a_key, which then tells which of a customer's orders count
-- for a SKU's limit, and of expiring, which tells the SKU of each due order.
CREATE TABLE IF NOT EXISTS orders (
  id                 BINARY(16)      NOT NULL,
  sku                VARBINARY(64)   NOT NULL,
  customer           VARBINARY(255)  NOT NULL,
  idempotency_key    VARBINARY(255)  NOT NULL,
  fingerprint        BINARY(32)      NOT NULL,
  quantity           INT             NOT NULL,
  price_cents        BIGINT          NOT NULL,
  currency           CHAR(3)         NOT NULL,
  per_customer_limit INT             NULL,
  status             ENUM('reserved','paid','cancelled','expired') NOT NULL,
  fence              BIGINT UNSIGNED NOT NULL,
  seq                BIGINT UNSIGNED NOT NULL,
  created_at         DATETIME(6)     NOT NULL,
  expires_at         DATETIME(6)     NOT NULL,
  closed_at          DATETIME(6)     NULL,
  payment_reference  VARBINARY(255)  NULL,
  returned_by        BINARY(16)      NULL,
  PRIMARY KEY (id, sku),
  UNIQUE KEY one_order_a_key (customer, idempotency_key),
  KEY of_sku (sku, seq),
  KEY expiring (status, expires_at, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Orders that were purged, with their keys. The audit counts their units, so that
-- purging need not touch the stock.
CREATE TABLE IF NOT EXISTS archived_orders (
  id                 BINARY(16)      NOT NULL,
  sku                VARBINARY(64)   NOT NULL,
  customer           VARBINARY(255)  NOT NULL,
  idempotency_key    VARBINARY(255)  NOT NULL,
  fingerprint        BINARY(32)      NOT NULL,
  quantity           INT             NOT NULL,
  price_cents        BIGINT          NOT NULL,
  currency           CHAR(3)         NOT NULL,
  per_customer_limit INT             NULL,
  status             ENUM('reserved','paid','cancelled','expired') NOT NULL,
  fence              BIGINT UNSIGNED NOT NULL,
  seq                BIGINT UNSIGNED NOT NULL,
  created_at         DATETIME(6)     NOT NULL,
  expires_at         DATETIME(6)     NOT NULL,
  closed_at          DATETIME(6)     NULL,
  payment_reference  VARBINARY(255)  NULL,
  returned_by        BINARY(16)      NULL,
  archived_at        DATETIME(6)     NOT NULL,
  PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Units that were put on sale after the SKU was. seq is that of the write.
CREATE TABLE IF NOT EXISTS restocks (
  id              BINARY(16)      NOT NULL,
  sku             VARBINARY(64)   NOT NULL,
  idempotency_key VARBINARY(255)  NOT NULL,
  fingerprint     BINARY(32)      NOT NULL,
  units           INT             NOT NULL,
  created_at      DATETIME(6)     NOT NULL,
  seq             BIGINT UNSIGNED NOT NULL,
  PRIMARY KEY (id),
  UNIQUE KEY one_restock_a_key (idempotency_key)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Payments that bought nothing, to be refunded. They outlast their orders.
CREATE TABLE IF NOT EXISTS late_payments (
  order_id    BINARY(16)     NOT NULL,
  customer    VARBINARY(255) NOT NULL,
  reference   VARBINARY(255) NOT NULL,
  received_at DATETIME(6)    NOT NULL,
  PRIMARY KEY (order_id, reference),
  KEY oldest (received_at, order_id, reference)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Which replica has a task that one has at a time: a lock-table, see mysqllock.
CREATE TABLE IF NOT EXISTS leases (
  name       VARBINARY(255)  NOT NULL,
  owner      VARBINARY(512)  NOT NULL,
  token      BIGINT UNSIGNED NOT NULL,
  expires_at DATETIME(6)     NOT NULL,
  PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- One row: how this database is guarded. Tokens of two sources must never be
-- compared, nor may two strategies write the same stock.
CREATE TABLE IF NOT EXISTS guard (
  id           TINYINT      NOT NULL,
  strategy     VARCHAR(64)  NOT NULL,
  fence        VARCHAR(16)  NOT NULL,
  token_source VARCHAR(255) NOT NULL,
  since        DATETIME(6)  NOT NULL,
  PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- For each version of the schema after this one, the oldest program that it serves,
-- by the newest version which that program knows.
CREATE TABLE IF NOT EXISTS serves (
  version INT NOT NULL,
  least   INT NOT NULL,
  PRIMARY KEY (version)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- +goose Down
DROP TABLE serves;
DROP TABLE guard;
DROP TABLE leases;
DROP TABLE late_payments;
DROP TABLE restocks;
DROP TABLE archived_orders;
DROP TABLE orders;
DROP TABLE stock;
