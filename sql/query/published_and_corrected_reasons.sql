-- The accepted history reasons and, after them, the corrected ones, by user.
-- Reads the published reason, reason_score and reason_correction. Parameter: $dt, the interval's partition.
select id, reason
from (
    select r.user_id as id, r.reason, 0 as source
    from reason as r
    join reason_score as s on s.kind = r.kind and s.user_id = r.user_id and s.dt = r.dt
    where r.kind = 'history' and r.dt = $dt and s.accepted
    union all
    select user_id as id, reason, 1 as source
    from reason_correction
    where dt = $dt and reason is not null
)
order by id, source
