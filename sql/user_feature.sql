-- One content feature per user of tonight, user-independent where it must be: the pooled embedding of the accepted
-- history reasons. Pooling is not SQL's work: `pooled_embedding(kind, entity_id, embedding)` holds one vector per entity.
-- A user without an accepted reason has zeros ($zero_embedding, as wide as the encoder) and `missing` set.
with accepted as (
    select
        user_id,
        count(*) as n_reasons,
        -- Summed as decimals, so that the order of the rows cannot change the last bit.
        sum(cast(least(greatest(score, -1e9), 1e9) as decimal(18, 8))) as score_sum,
        count(score) as n_scores
    from reason_score
    where kind = 'history' and accepted and user_id is not null
    group by user_id
),
pooled as (
    select entity_id, embedding
    from pooled_embedding
    where kind = 'history'
)
select
    cast(t.user_id as varchar) as user_id,
    $as_of as event_timestamp,
    $interval_end as created_timestamp,
    case when a.n_reasons > 0 and p.embedding is not null then p.embedding else $zero_embedding end as embedding,
    cast(coalesce(a.n_reasons, 0) as integer) as n_reasons,
    cast(case when a.n_scores > 0 then cast(a.score_sum as double) / cast(a.n_scores as double) end as float)
        as mean_score,
    not (a.n_reasons > 0 and p.embedding is not null) is true as missing
from user_history as t
left join accepted as a on a.user_id = t.user_id
left join pooled as p on p.entity_id = t.user_id
order by user_id
