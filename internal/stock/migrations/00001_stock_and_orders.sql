-- +goose Up

-- sku, customer and key are VARBINARY: with the usual collations 'A' equals
-- 'a', and 'k' equals 'k ' even in utf8mb4_bin, which would join what buyers
-- sent apart.
--
-- No CHECK (available >= 0) and no foreign key: the audit finds what is wrong,
-- the strategies that oversell must be able to show it, and a foreign key
-- would lock the stock row again for each order.
--
-- batch names the last batch that a desk wrote: its orders are inserted only
-- where it stands.
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
  batch              BINARY(16)      NULL,
  created_at         DATETIME(6)     NOT NULL,
  updated_at         DATETIME(6)     NOT NULL,
  PRIMARY KEY (sku)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- id is a UUID of version 7: rows arrive in the order of the primary key.
-- price, limit and fingerprint are those that stood when the order was made;
-- fence and seq are those of the write that admitted it. of_sku grows at the end
-- of each SKU, so that it costs an INSERT little; who holds orders of a sold-out
-- SKU is read by it.
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
  PRIMARY KEY (id),
  UNIQUE KEY one_order_a_key (customer, idempotency_key),
  KEY of_sku (sku, seq)
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

-- +goose Down
DROP TABLE guard;
DROP TABLE orders;
DROP TABLE stock;
