-- A bit of everything that writes WAL. :rows, :round (a schema of its own, so that rounds add up)
-- and :name (for prepared transactions, whose names are the cluster's) are filled in.

create extension if not exists bloom;
create schema w:round;
set search_path = w:round, public;

-- Every kind of index, on a table with a column out of line.
create table kinds (
    id bigserial primary key,
    n int,
    t text,
    words int[],
    place point,
    span int4range,
    big text
);
alter table kinds alter big set storage external;
create index kinds_hash on kinds using hash (t);
create index kinds_gin on kinds using gin (words);
create index kinds_gist on kinds using gist (span);
create index kinds_spgist on kinds using spgist (place);
create index kinds_brin on kinds using brin (n) with (pages_per_range = 2);
create index kinds_bloom on kinds using bloom (n);
create index kinds_text on kinds (t, n);

insert into kinds (n, t, words, place, span, big)
select g, md5(g::text), array[g % 10, g % 100, g], point(g % 1000, g / 7),
    int4range(g, g + g % 50 + 1), case when g % 100 = 0 then repeat(md5(g::text), 300) end
from generate_series(1, :rows) g;
update kinds set n = n + 1, t = md5(t) where id % 5 = 0;
update kinds set big = repeat(md5(t), 200) where id % 250 = 0;
delete from kinds where id % 11 = 0;
vacuum kinds;
insert into kinds (n, t, words, place, span)
select g, md5(g::text), array[g % 10], point(g, g), int4range(g, g + 1)
from generate_series(1, :rows / 10) g;

-- Subtransactions, aborted ones too, and more than the 64 that fit in a snapshot.
create table subs (x int);
do $$
begin
    for i in 1..100 loop
        begin
            insert into subs values (i);
            if i % 3 = 0 then
                raise exception 'undo %', i;
            end if;
        exception when raise_exception then
            null;
        end;
    end loop;
end $$;
begin;
insert into subs values (1000);
savepoint a;
insert into subs values (1001);
rollback to a;
insert into subs values (1002);
release a;
commit;
begin;
insert into subs select generate_series(1, :rows);
rollback;

-- Two-phase commit, with a dropped relation in it.
create table two (x int);
create table two_gone as select generate_series(1, 100) x;
begin;
insert into two select generate_series(1, 50);
drop table two_gone;
prepare transaction 'w:round-:name-a';
begin;
insert into two values (-1);
prepare transaction 'w:round-:name-b';
commit prepared 'w:round-:name-a';
rollback prepared 'w:round-:name-b';

-- Rewrites and new files.
create table rewritten as select g x, md5(g::text) t from generate_series(1, :rows / 2) g;
create index rewritten_x on rewritten (x);
delete from rewritten where x % 2 = 0;
vacuum full rewritten;
cluster rewritten using rewritten_x;
reindex table rewritten;
alter table rewritten alter x type bigint;
create table emptied as select generate_series(1, 1000) x;
truncate emptied;
insert into emptied values (1);
create table dropped as select generate_series(1, 1000) x;
drop table dropped;
create table shrunk as select generate_series(1, :rows) x;
delete from shrunk where x > 10;
vacuum shrunk;
create materialized view seen as select n, count(*) from kinds group by n;
refresh materialized view seen;
vacuum full pg_class;

-- COPY, sequences, unlogged and temporary tables, large objects, messages, locks.
create table copied (a int, b text);
copy copied from stdin;
1	one
2	two
3	\N
\.
insert into copied select g, repeat('c', 100) from generate_series(1, :rows / 4) g;
create sequence numbers cache 1;
select count(nextval('numbers')) from generate_series(1, 200);
select setval('numbers', 5000);
create unlogged table unlogged_one as select generate_series(1, 1000) x;
create index unlogged_index on unlogged_one (x);
create temporary table temporary_one as select generate_series(1, 1000) x;
select lo_unlink(oid) from pg_largeobject_metadata limit 1;
select lo_from_bytea(0, convert_to(repeat('large object ', 2000), 'UTF8')) <> 0;
select pg_logical_emit_message(false, 'testkit', 'a message') is not null;
select pg_logical_emit_message(true, 'testkit', repeat('long ', 10000)) is not null;
begin;
lock table copied in access exclusive mode;
select count(*) from (select * from copied for update) locked;
select count(*) from (select * from copied for share) locked;
commit;
create table parts (x int, y text) partition by range (x);
create table parts_low partition of parts for values from (0) to (1000);
create table parts_rest partition of parts default;
insert into parts select g, 'p' || g from generate_series(1, 2000) g;
update parts set x = x + 500;
analyze;
