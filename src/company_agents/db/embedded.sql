-- The roles and the database of a new data folder. Fed to `postgres --single -j`: a blank line ends a statement.

CREATE ROLE company_agents_migrate LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB NOREPLICATION;

CREATE ROLE company_agents_serve LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB NOREPLICATION;

CREATE ROLE company_agents_instance LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB NOREPLICATION;

CREATE DATABASE company_agents OWNER company_agents_migrate TEMPLATE template0;

REVOKE ALL ON DATABASE company_agents, postgres, template1 FROM PUBLIC;

GRANT CONNECT ON DATABASE company_agents TO company_agents_migrate, company_agents_serve, company_agents_instance;

