-- Which reasons differ between the two newest days? How many of each kind and difference, with three of them.
-- Reads reason_score and reason. No parameters. With one day only there is nothing to compare, and no row.
with days as (
    select max(dt) as newest, min(dt) as previous
    from (select distinct dt from reason_score order by dt desc limit 2)
),
told as (
    select kind, user_id, item_id, dt, reason, cast(null as bigint) as accepted from reason
    union all
    select kind, user_id, item_id, dt, cast(null as varchar) as reason, cast(accepted as bigint) as accepted
    from reason_score
),
-- Rows are grouped, not joined: user_id and item_id may be null.
compared as (
    select
        t.kind,
        t.user_id,
        t.item_id,
        max(case when t.dt = d.previous then t.reason end) as reason_before,
        max(case when t.dt = d.newest then t.reason end) as reason_now,
        max(case when t.dt = d.previous then t.accepted end) as accepted_before,
        max(case when t.dt = d.newest then t.accepted end) as accepted_now
    from told as t
    cross join days as d
    where t.dt = d.previous or t.dt = d.newest
    group by t.kind, t.user_id, t.item_id
),
different as (
    select
        kind,
        user_id,
        item_id,
        reason_before,
        reason_now,
        case
            when accepted_before is null then 'new'
            when accepted_now is null then 'gone'
            when accepted_before < accepted_now then 'accepted now'
            when accepted_before > accepted_now then 'refused now'
            else 'other text'
        end as difference
    from compared
    where (accepted_before is distinct from accepted_now) or (reason_before is distinct from reason_now)
),
numbered as (
    select
        kind,
        difference,
        count(*) over (partition by kind, difference) as reasons,
        row_number() over (partition by kind, difference order by user_id, item_id) as place,
        user_id,
        item_id,
        reason_before,
        reason_now
    from different
)
select kind, difference, reasons, user_id, item_id, reason_before, reason_now
from numbered
where place <= 3
order by kind, difference, place
