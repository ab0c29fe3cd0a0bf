-- One content feature per user of tonight: the pooled embedding of its accepted history reasons, or without one that of its
-- evidence; `source` says which. A corrected reason is one more of the user's reasons.
-- A user of whom nothing is known has zeros ($zero_embedding, as wide as the encoder) and `missing` set.
with scored as (
    select user_id, accepted, score from reason_score where kind = 'history'
    union all
    select user_id, reason is not null as accepted, score from reason_correction
),
accepted as (
    select
        user_id,
        count(*) as n_reasons,
        -- Summed as decimals, so that the order of the rows cannot change the last bit.
        sum(cast(least(greatest(score, -1e9), 1e9) as decimal(18, 8))) filter (where score is not null) as score_sum,
        count(score) as n_scores
    from scored
    where accepted and user_id is not null
    group by user_id
),
found as (
    select p.entity_id as user_id, a.n_reasons, a.score_sum, a.n_scores, p.embedding
    from user_embedding as p
    left join accepted as a on a.user_id = p.entity_id
    where p.embedding is not null
)
select
    cast(t.user_id as varchar) as user_id,
    $as_of as event_timestamp,
    $interval_end as created_timestamp,
    case when f.user_id is not null then f.embedding else $zero_embedding end as embedding,
    cast(coalesce(f.n_reasons, 0) as integer) as n_reasons,
    cast(case when f.n_scores > 0 then cast(f.score_sum as double) / cast(f.n_scores as double) end as float)
        as mean_score,
    f.user_id is null as missing,
    cast(case when f.user_id is null then 'none' when f.n_reasons > 0 then 'reason' else 'evidence' end as varchar)
        as source
from user_history as t
left join found as f on f.user_id = t.user_id
order by user_id
